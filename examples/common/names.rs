//! What the examples declare, with the prefix before it.

pub(super) const QUEUES: [&str; 9] = [
    "test",
    "queue_aoto_1",
    "queue_aoto_2",
    "anheng",
    "compute_queue",
    "hello",
    "hello1",
    "rpc_queue",
    "my_queue",
];
pub(super) const EXCHANGES: [&str; 7] = [
    "aoto_test",
    "yanfa",
    "logs",
    "hello2",
    "log1",
    "log2",
    "my_headers",
];
