//! What the load generator and the servers in Rust share: epoll, datagrams, CPU clocks, TLS and serving.

pub mod datagrams;
pub mod server;
pub mod sys;
pub mod tls;
