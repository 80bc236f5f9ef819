//! The arrows between the files of `src` only go down.
//!
//! The picture under "The shape" in DESIGN.md is the table: a line is a layer, the topmost first. A file may use what stands
//! on its own line and on the lines below. Read are all `use` declarations and all paths that begin with `crate`, `self` or
//! `super`; names that a module hands on (`pub use`) are followed to where they are defined. The methods of some types are
//! spread over several layers, so calls of these are read as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The layers as DESIGN.md draws them: what a line names, with the number of the line.
struct Layers(Vec<(String, usize)>);

impl Layers {
    fn read() -> Self {
        let design = fs::read_to_string(root().join("DESIGN.md")).unwrap();
        let (_, rest) = design.split_once("\n## The shape\n").expect("the heading");
        let (_, rest) = rest.split_once("```\n").expect("the picture's beginning");
        let (picture, _) = rest.split_once("```").expect("the picture's end");
        let mut layers = Vec::new();
        for (number, line) in picture.lines().enumerate() {
            let names = line
                .split_whitespace()
                .take_while(|word| word.ends_with(".rs") || word.ends_with('/'));
            for name in names {
                layers.push((name.to_owned(), number));
            }
        }
        Layers(layers)
    }

    /// The entry that names this file, or what it is a part of: `connection.rs` stands for `connection/inbox.rs` as well.
    fn entry(&self, file: &str) -> Option<&(String, usize)> {
        let covers = |name: &str| match name.strip_suffix(".rs") {
            Some(stem) => file == name || file.starts_with(&format!("{stem}/")),
            None => file.starts_with(name) || name.strip_suffix('/') == file.strip_suffix(".rs"),
        };
        let entries = self.0.iter().filter(|(name, _)| covers(name));
        entries.max_by_key(|(name, _)| name.trim_end_matches(".rs").len())
    }

    fn of(&self, file: &str) -> Option<usize> {
        self.entry(file).map(|(_, number)| *number)
    }
}

/// Source text without comments, and without what stands between quotes; lines stay where they are.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |from: usize, to: usize, out: &mut String| {
        let lines = chars[from..to].iter().filter(|c| **c == '\n');
        out.push(' ');
        out.extend(lines);
    };
    while at < chars.len() {
        let begin = at;
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            ('/', Some('*')) => {
                while at < chars.len() && !(chars[at] == '*' && chars.get(at + 1) == Some(&'/')) {
                    at += 1;
                }
                at = (at + 2).min(chars.len());
                blank(begin, at, &mut out);
            }
            ('r', Some('#' | '"')) if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                if chars.get(at + 1 + hashes) != Some(&'"') {
                    out.push('r');
                    at += 1;
                    continue;
                }
                at += 2 + hashes;
                while at < chars.len() {
                    let closes = chars[at] == '"'
                        && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
                    at += 1;
                    if closes {
                        at += hashes;
                        break;
                    }
                }
                blank(begin, at, &mut out);
            }
            ('"', _) => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
                at = (at + 1).min(chars.len());
                blank(begin, at, &mut out);
            }
            ('\'', Some('\\')) => {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
                out.push(' ');
            }
            // A lifetime has no quote behind it.
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => {
                at += 3;
                out.push(' ');
            }
            (c, _) => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Path,
    Sign(char),
}

/// The tokens of stripped text, each with its line.
fn tokens(text: &str) -> Vec<(Token, usize)> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(next) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(next);
            }
            out.push((Token::Word(word), line));
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            out.push((Token::Path, line));
        } else if !c.is_whitespace() {
            out.push((Token::Sign(c), line));
        }
    }
    out
}

/// A path as a file writes it, with the module it is written in.
struct Used {
    /// Inline modules around it, such as `tests`.
    inside: Vec<String>,
    path: Vec<String>,
    line: usize,
    /// It hands the name on: what it is called here.
    renamed: Option<String>,
    is_use: bool,
}

/// All that a file uses by a path.
fn uses(tokens: &[(Token, usize)]) -> Vec<Used> {
    let mut found = Vec::new();
    let mut modules: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    let word = |at: usize| match tokens.get(at) {
        Some((Token::Word(word), _)) => Some(word.as_str()),
        _ => None,
    };
    let is = |at: usize, token: &Token| tokens.get(at).is_some_and(|(found, _)| found == token);
    while at < tokens.len() {
        let inside = || {
            modules
                .iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        let line = tokens[at].1;
        match &tokens[at].0 {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth -= 1;
                while modules.last().is_some_and(|(_, opened)| *opened > depth) {
                    modules.pop();
                }
            }
            Token::Word(name) if name == "mod" && is(at + 2, &Token::Sign('{')) => {
                if let Some(name) = word(at + 1) {
                    modules.push((name.to_owned(), depth + 1));
                }
            }
            Token::Word(name) if name == "use" && !is(at + 1, &Token::Sign('<')) => {
                let mut end = at + 1;
                while end < tokens.len() && tokens[end].0 != Token::Sign(';') {
                    end += 1;
                }
                let mut next = at + 1;
                tree(&tokens[..end], &mut next, &[], &mut |path, renamed| {
                    found.push(Used {
                        inside: inside(),
                        path,
                        line,
                        renamed: Some(renamed),
                        is_use: true,
                    });
                });
                at = end;
            }
            Token::Word(name)
                if matches!(name.as_str(), "crate" | "super" | "self")
                    && is(at + 1, &Token::Path)
                    && (at == 0 || !is(at - 1, &Token::Path)) =>
            {
                let mut path = vec![name.clone()];
                while is(at + 1, &Token::Path) {
                    let Some(segment) = word(at + 2) else { break };
                    path.push(segment.to_owned());
                    at += 2;
                }
                found.push(Used {
                    inside: inside(),
                    path,
                    line,
                    renamed: None,
                    is_use: false,
                });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Takes a `use` tree apart: `a::{b, c::d as e}`.
fn tree(
    tokens: &[(Token, usize)],
    at: &mut usize,
    before: &[String],
    found: &mut impl FnMut(Vec<String>, String),
) {
    let mut path = before.to_vec();
    loop {
        match tokens.get(*at).map(|(token, _)| token) {
            Some(Token::Word(name)) if name == "as" => {
                let Some((Token::Word(renamed), _)) = tokens.get(*at + 1) else {
                    return;
                };
                *at += 2;
                return found(path, renamed.clone());
            }
            Some(Token::Word(name)) => {
                path.push(name.clone());
                *at += 1;
            }
            Some(Token::Path) => *at += 1,
            Some(Token::Sign('*')) => {
                *at += 1;
                return found(path, "*".to_owned());
            }
            Some(Token::Sign('{')) => {
                *at += 1;
                while let Some((token, _)) = tokens.get(*at) {
                    match token {
                        Token::Sign('}') => {
                            *at += 1;
                            return;
                        }
                        Token::Sign(',') => *at += 1,
                        _ => tree(tokens, at, &path, found),
                    }
                }
                return;
            }
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                if name == "self" {
                    path.pop();
                }
                let name = path.last().cloned().unwrap_or_default();
                return found(path, name);
            }
        }
    }
}

struct Module {
    file: String,
    used: Vec<Used>,
}

/// All modules that are files, by their paths: `["io", "wait"]`.
struct Crate(BTreeMap<Vec<String>, Module>);

impl Crate {
    fn read() -> Self {
        let src = root().join("src");
        let mut modules = BTreeMap::new();
        let mut folders = vec![src.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "rs") {
                    let file = path.strip_prefix(&src).unwrap().to_str().unwrap();
                    let file = file.replace('\\', "/");
                    let text = strip(&fs::read_to_string(&path).unwrap());
                    let used = uses(&tokens(&text));
                    modules.insert(module_path(&file), Module { file, used });
                }
            }
        }
        Crate(modules)
    }

    /// The file that a path leads to, from a module that is a file.
    fn file_of(&self, from: &[String], used: &Used, steps: usize) -> Option<&str> {
        let mut inside: Vec<String> = from.to_vec();
        inside.extend(used.inside.iter().cloned());
        let mut path = used.path.iter();
        let mut place = match used.path.first()?.as_str() {
            "crate" => {
                path.next();
                Vec::new()
            }
            "self" => {
                path.next();
                inside
            }
            "super" => {
                while path.as_slice().first().is_some_and(|word| word == "super") {
                    path.next();
                    inside.pop();
                }
                inside
            }
            // A module below this one, or else another crate.
            first => {
                let mut below = inside.clone();
                below.push(first.to_owned());
                if !self.0.contains_key(&below) {
                    return None;
                }
                inside
            }
        };
        for segment in path {
            place.push(segment.clone());
            if self.0.contains_key(&place) {
                continue;
            }
            place.pop();
            // An inline module that is around the use is not a file.
            let module = self.nearest(&place);
            let handed_on = module.1.used.iter().find(|other| {
                other.is_use && other.inside.is_empty() && other.renamed.as_ref() == Some(segment)
            });
            return match handed_on {
                Some(other) if steps > 0 => self
                    .file_of(&module.0, other, steps - 1)
                    .or(Some(module.1.file.as_str())),
                _ => Some(&module.1.file),
            };
        }
        Some(&self.nearest(&place).1.file)
    }

    fn nearest(&self, place: &[String]) -> (Vec<String>, &Module) {
        let mut place = place.to_vec();
        loop {
            if let Some(module) = self.0.get(&place) {
                return (place, module);
            }
            place.pop().expect("lib.rs is the last");
        }
    }
}

fn module_path(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap();
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    match stem {
        "lib" => Vec::new(),
        _ => stem.split('/').map(str::to_owned).collect(),
    }
}

#[test]
fn every_file_stands_in_the_picture() {
    let layers = Layers::read();
    let modules = Crate::read();
    let files: BTreeSet<&str> = modules.0.values().map(|module| &*module.file).collect();
    for file in &files {
        assert!(layers.of(file).is_some(), "{file} is missing in DESIGN.md");
    }
    for (name, _) in &layers.0 {
        let is_there = root().join("src").join(name).exists();
        assert!(is_there, "{name} stands in DESIGN.md and is not there");
    }
}

#[test]
fn arrows_only_go_down() {
    let layers = Layers::read();
    let modules = Crate::read();
    let mut upward = Vec::new();
    for (place, module) in &modules.0 {
        let from = &module.file;
        for used in &module.used {
            let Some(to) = modules.file_of(place, used, 8) else {
                continue;
            };
            if to == from {
                continue;
            }
            if layers.of(to) < layers.of(from) {
                let path = used.path.join("::");
                upward.push(format!("src/{from}:{} uses {to} ({path})", used.line));
            }
        }
    }
    assert!(upward.is_empty(), "upward:\n{}", upward.join("\n"));
}

/// Types whose methods stand in files of several layers, and what their values are called.
const SPREAD: [(&str, &str); 3] = [
    ("Link", "link"),
    ("Channel", "channel"),
    ("ConnectionParameters", "parameters"),
];

/// The functions in `impl` blocks of a type in a file, and the calls of such functions: names with lines.
fn methods_of(
    (type_name, value_name): (&str, &str),
    tokens: &[(Token, usize)],
) -> (BTreeSet<String>, Vec<(String, usize)>) {
    let (mut defined, mut called) = (BTreeSet::new(), Vec::new());
    let sign = |at: usize, sign: char| {
        tokens
            .get(at)
            .is_some_and(|(token, _)| *token == Token::Sign(sign))
    };
    let (mut depth, mut impl_from) = (0, None);
    for (at, (token, line)) in tokens.iter().enumerate() {
        match token {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth -= 1;
                if impl_from == Some(depth) {
                    impl_from = None;
                }
            }
            Token::Word(word) if word == "impl" && depth == 0 => {
                let head = tokens[at..]
                    .iter()
                    .take_while(|(token, _)| *token != Token::Sign('{'));
                let last = head.filter_map(|(token, _)| match token {
                    Token::Word(word) => Some(word.as_str()),
                    _ => None,
                });
                if last.last() == Some(type_name) {
                    impl_from = Some(0);
                }
            }
            Token::Word(word) if word == "fn" && impl_from.is_some() && depth == 1 => {
                if let Some((Token::Word(name), _)) = tokens.get(at + 1) {
                    defined.insert(name.clone());
                }
            }
            Token::Word(receiver) => {
                let is_one = receiver == value_name || receiver == "self" && impl_from.is_some();
                if is_one && sign(at + 1, '.') && sign(at + 3, '(') {
                    if let Some((Token::Word(name), _)) = tokens.get(at + 2) {
                        called.push((name.clone(), *line));
                    }
                }
            }
            Token::Path | Token::Sign(_) => {}
        }
    }
    (defined, called)
}

#[test]
fn methods_of_types_in_several_files_call_only_what_is_below() {
    let layers = Layers::read();
    let files: Vec<(String, Vec<(Token, usize)>)> = Crate::read()
        .0
        .into_values()
        // These have types of their own with the same names, or values.
        .filter(|module| !module.file.starts_with("testing/") && !module.file.contains("tests/"))
        .map(|module| {
            let text = fs::read_to_string(root().join("src").join(&module.file)).unwrap();
            (module.file, tokens(&strip(&text)))
        })
        .collect();
    let mut upward = Vec::new();
    for spread in SPREAD {
        let mut defined = BTreeMap::new();
        let mut called = Vec::new();
        for (file, tokens) in &files {
            let (ours, calls) = methods_of(spread, tokens);
            defined.extend(ours.into_iter().map(|name| (name, file)));
            called.extend(calls.into_iter().map(|(name, line)| (file, name, line)));
        }
        let spread_over: BTreeSet<_> = defined.values().map(|file| layers.of(file)).collect();
        assert!(spread_over.len() > 1 && !called.is_empty(), "{spread:?}");
        for (from, name, line) in &called {
            if let Some(to) = defined.get(name) {
                if layers.of(to) < layers.of(from) {
                    upward.push(format!("src/{from}:{line} calls {name} of {to}"));
                }
            }
        }
    }
    assert!(upward.is_empty(), "upward:\n{}", upward.join("\n"));
}

#[test]
fn the_reader_of_source_text_sees_what_is_there() {
    let text = strip(
        "use crate::{a::B, c::{self, D as E}}; // crate::comment\n\
         mod tests { use super::*; fn f() { let _ = \"crate::string\"; crate::x::y::<T>(); 'c'; } }\n\
         pub(crate) use self::inner::Name; /* super::no */ impl<'a> F<'a> {}",
    );
    let found = uses(&tokens(&text));
    let seen: Vec<String> = found
        .iter()
        .map(|used| {
            format!(
                "{}:{}:{}",
                used.inside.join("::"),
                used.path.join("::"),
                used.line
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ":crate::a::B:1",
            ":crate::c:1",
            ":crate::c::D:1",
            "tests:super:2",
            "tests:crate::x::y:2",
            ":self::inner::Name:3",
        ]
    );
    assert_eq!(found[2].renamed.as_deref(), Some("E"));
}
