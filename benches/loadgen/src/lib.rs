//! What the load generator and the servers in Rust share: epoll, CPU clocks, TLS and serving.

pub mod server;
pub mod sys;
pub mod tls;
