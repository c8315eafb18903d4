//! The load generator must notice a server that answers wrongly; a benchmark of wrong answers measures nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

/// Runs the generator against a server that treats its one connection as `serve` does.
fn run(arguments: &[&str], serve: impl FnOnce(TcpStream) + Send + 'static) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--tcp", &address, "--warm-up-ms", "10", "--window-ms", "100"])
        .args(arguments)
        .output()
        .unwrap()
}

fn echo(mut stream: TcpStream, spoil: impl Fn(usize, &mut [u8])) {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        spoil(total, &mut buffer[..count]);
        total += count;
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[test]
fn faithful_echo_is_counted() {
    let output = run(&["--echo", "1000"], |stream| echo(stream, |_, _| {}));
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        line.starts_with(r#"{"operations": "#) && !line.starts_with(r#"{"operations": 0"#),
        "{line}"
    );
    assert!(line.contains(r#""latency_p99_us": "#), "{line}");
}

#[test]
fn large_echo_survives_partial_writes() {
    let output = run(&["--echo", "3000000"], |stream| echo(stream, |_, _| {}));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn one_flipped_bit_fails() {
    let output = run(&["--echo", "1000"], |stream| {
        echo(stream, |total, bytes| {
            if total >= 5000 {
                bytes[bytes.len() - 1] ^= 1;
            }
        });
    });
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
}

#[test]
fn stale_answer_fails() {
    let output = run(&["--echo", "1000"], |mut stream| {
        let mut first = vec![0; 1000];
        let mut later = vec![0; 1000];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&first).unwrap();
        stream.read_exact(&mut later).unwrap();
        stream.write_all(&first).unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
}

#[test]
fn surplus_bytes_fail() {
    let output = run(&["--request", "ping", "--reply", "pong"], |mut stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(b"pong!").unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("more bytes"));
}

#[test]
fn lost_connection_fails() {
    let output = run(&["--echo", "10"], drop);
    assert!(!output.status.success());
}

#[test]
fn bytes_before_the_close_fail() {
    let output = run(&["--connect"], |mut stream| stream.write_all(b"x").unwrap());
    assert!(String::from_utf8_lossy(&output.stderr).contains("only an end"));
}
