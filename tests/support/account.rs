//! Accounts for every message that came more than once, by what passed on the wire.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::tap::{Delivered, Outcome, Passed};

/// A broker that is killed forgets acks that it has not written down. It writes them within some hundredths of a second; this
/// leaves room for a busy machine.
const WRITTEN: Duration = Duration::from_secs(5);

/// Where the messages that came more than once came from.
#[derive(Debug, Default, PartialEq)]
pub struct Account {
    /// Published again, being unconfirmed when their connection was lost, or refused.
    pub published_again: u64,
    /// Delivered again, their ack not being on the wire when their connection was lost.
    pub not_acked: u64,
    /// Delivered again although their ack was on the wire: the broker was killed just then.
    pub ack_lost: u64,
    /// How long before the loss the oldest of these acks went out.
    pub oldest_ack_lost: Duration,
    /// Confirmed by the broker, and delivered on no connection.
    pub lost_by_broker: Vec<u64>,
}

/// Accounts for everything that passed to and from a publisher and a consumer that acks each message in order, or reports what has
/// no explanation.
pub fn account(publishing: &[Passed], consuming: &[Passed]) -> Result<Account, String> {
    let mut account = Account::default();
    let copies = copies(publishing, &mut account)?;
    let mut history = BTreeMap::new();
    for (connection, passed) in consuming.iter().enumerate() {
        let explained = deliveries(passed, connection, &copies, &mut history, &mut account);
        explained.map_err(|what| format!("consumer's connection {connection}: {what}"))?;
    }
    let is_lost = |number: &&u64| !history.contains_key(number);
    account.lost_by_broker = confirmed(publishing)
        .iter()
        .filter(is_lost)
        .copied()
        .collect();
    Ok(account)
}

fn confirmed(publishing: &[Passed]) -> BTreeSet<u64> {
    let all = publishing.iter().flat_map(|passed| &passed.published);
    let confirmed = all.filter(|published| published.outcome == Some(Outcome::Acked));
    confirmed.map(|published| published.number).collect()
}

/// A message as it was published: how often, and with which id.
struct Copies<'a> {
    count: usize,
    id: &'a str,
}

/// Every number that was published more than once was unconfirmed when the connection was lost, or refused.
fn copies<'a>(
    publishing: &'a [Passed],
    account: &mut Account,
) -> Result<BTreeMap<u64, Copies<'a>>, String> {
    let mut copies: BTreeMap<u64, Copies<'a>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut last = BTreeMap::new();
    for (connection, passed) in publishing.iter().enumerate() {
        for published in &passed.published {
            let (number, id) = (published.number, &*published.id);
            let before = last.insert(number, (connection, published.outcome, passed.lost));
            let Some((former, outcome, lost)) = before else {
                if !ids.insert(id) {
                    return Err(format!(
                        "number {number} was published with the id of another: {id}"
                    ));
                }
                copies.insert(number, Copies { count: 1, id });
                continue;
            };
            let known = copies.get_mut(&number).unwrap();
            if known.id != id {
                return Err(format!(
                    "number {number} was published again with another id: {id}"
                ));
            }
            let in_flight = outcome.is_none() && lost.is_some() && former < connection;
            if !in_flight && outcome != Some(Outcome::Nacked) {
                return Err(format!("number {number} was published on connection {former} ({outcome:?}) and on {connection}"));
            }
            known.count += 1;
            account.published_again += 1;
        }
    }
    Ok(copies)
}

/// What became of the deliveries of a number on former connections.
#[derive(Default)]
struct History {
    /// How many are explained by a publish.
    fresh: usize,
    /// How many have no ack on the wire.
    open: usize,
    /// How long before the loss the acks of the others went out.
    acked: Vec<Duration>,
}

/// Every number came once for each time that it was published, and again only if it had no outcome before a loss.
fn deliveries(
    passed: &Passed,
    connection: usize,
    copies: &BTreeMap<u64, Copies<'_>>,
    history: &mut BTreeMap<u64, History>,
    account: &mut Account,
) -> Result<(), String> {
    if let Some(tag) = passed.wrong_acks.first() {
        return Err(format!("an ack of delivery tag {tag}, which was not open"));
    }
    // The consumer acks in order: only the last acks can be lost with the connection.
    let is_acked = |delivered: &Delivered| delivered.acked.is_some();
    let must_be = match passed.lost {
        Some(_) => passed
            .delivered
            .iter()
            .rposition(is_acked)
            .map_or(0, |last| last + 1),
        None => passed.delivered.len(),
    };
    if let Some(open) = passed.delivered[..must_be]
        .iter()
        .find(|delivered| !is_acked(delivered))
    {
        return Err(format!("the ack of number {} did not go out", open.number));
    }
    let mut here: BTreeMap<u64, usize> = BTreeMap::new();
    for Delivered {
        number,
        id,
        redelivered,
        ..
    } in &passed.delivered
    {
        let Some(copies) = copies.get(number).filter(|copies| copies.id == id) else {
            return Err(format!(
                "number {number} was not published with the id {id:?}"
            ));
        };
        let here = here.entry(*number).or_default();
        *here += 1;
        let before = history.entry(*number).or_default();
        if *redelivered && before.open > 0 {
            before.open -= 1;
            account.not_acked += 1;
            continue;
        }
        let lost_ack = before.acked.iter().position(|age| *age <= WRITTEN);
        if let Some(at) = lost_ack.filter(|_| *redelivered) {
            account.oldest_ack_lost = account.oldest_ack_lost.max(before.acked.swap_remove(at));
            account.ack_lost += 1;
            continue;
        }
        // The first delivery of a copy. It may be marked all the same after a loss: a former one did not get through, or the broker
        // marks all that it has recovered.
        before.fresh += 1;
        if before.fresh > copies.count || *here > copies.count || *redelivered && connection == 0 {
            return Err(format!(
                "number {number} came again (redelivered: {redelivered})"
            ));
        }
    }
    let Some(lost) = passed.lost else {
        return Ok(());
    };
    for delivered in &passed.delivered {
        let history = history.get_mut(&delivered.number).unwrap();
        match delivered.acked {
            None => history.open += 1,
            Some(at) => history.acked.push(lost.saturating_duration_since(at)),
        }
    }
    Ok(())
}

/// All that passed about a number, for a test that fails.
pub fn trace(number: u64, publishing: &[Passed], consuming: &[Passed]) -> String {
    let mut text = format!("number {number}:");
    for (connection, passed) in publishing.iter().enumerate() {
        for published in passed
            .published
            .iter()
            .filter(|published| published.number == number)
        {
            text += &format!(" published on {connection} ({:?});", published.outcome);
        }
    }
    for (connection, passed) in consuming.iter().enumerate() {
        for delivered in passed
            .delivered
            .iter()
            .filter(|delivered| delivered.number == number)
        {
            let age = delivered
                .acked
                .zip(passed.lost)
                .map(|(acked, lost)| lost.saturating_duration_since(acked));
            text += &format!(
                " delivered on {connection} (redelivered: {}, acked: {}, before the loss: {age:?});",
                delivered.redelivered,
                delivered.acked.is_some(),
            );
        }
    }
    text
}
