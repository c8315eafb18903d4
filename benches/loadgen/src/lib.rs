//! What the load generator and the server in Rust share: epoll, CPU clocks and TLS.

pub mod sys;
pub mod tls;
