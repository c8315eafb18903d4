//! The load generator must notice a server that answers wrongly; a benchmark of wrong answers measures nothing.

use std::cell::Cell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{mpsc, Arc, OnceLock};
use std::thread;
use std::time::Duration;

use loadgen::tls;
use rustls::{ServerConfig, ServerConnection};

/// Runs the generator against a server that treats its one connection as `serve` does.
fn run(arguments: &[&str], serve: impl FnOnce(TcpStream) + Send + 'static) -> Output {
    generate("--tcp", arguments, serve)
}

type TlsStream = rustls::StreamOwned<ServerConnection, TcpStream>;

/// The same over TLS; to drop the stream is to close the socket without a goodbye.
fn run_tls(arguments: &[&str], serve: impl FnOnce(TlsStream) + Send + 'static) -> Output {
    let session = ServerConnection::new(server_config()).unwrap();
    generate("--tls", arguments, |socket| serve(TlsStream::new(session, socket)))
}

fn generate(
    family: &str,
    arguments: &[&str],
    serve: impl FnOnce(TcpStream) + Send + 'static,
) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([family, &address, "--warm-up-ms", "10", "--window-ms", "100"])
        .args(arguments)
        .output()
        .unwrap()
}

fn server_config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    CONFIG.get_or_init(new_server_config).clone()
}

fn new_server_config() -> Arc<ServerConfig> {
    tls::server_config(&new_certificate(), tls::NEWEST).unwrap()
}

/// A key and a certificate made with it, for this run only.
fn new_certificate() -> Vec<u8> {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=localhost", "-days", "1", "-keyout", "-"])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn echo(mut stream: impl Read + Write, spoil: impl Fn(usize, &mut [u8])) {
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

fn echo_and_goodbye(mut stream: TlsStream) {
    echo(&mut stream, |_, _| {});
    stream.conn.send_close_notify();
    let _ = stream.flush(); // nobody listens any more if the generator has found a fault
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
fn window_that_is_too_short_for_an_operation_is_made_longer() {
    let output = run(&["--echo", "64", "--window-ms", "1"], |mut stream| {
        let mut buffer = [0; 64];
        while let Ok(()) = stream.read_exact(&mut buffer) {
            thread::sleep(Duration::from_millis(50));
            if stream.write_all(&buffer).is_err() {
                return;
            }
        }
    });
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(line.starts_with(r#"{"operations": 1, "#), "{line}");
}

#[test]
fn server_without_work_is_told_from_the_others() {
    let mut idler = Command::new("sleep").arg("60").spawn().unwrap();
    let (busy, idle) = (std::process::id().to_string(), idler.id().to_string());
    let servers = ["--echo", "1000", "--server-pid", &busy, "--server-pid", &idle];
    let output = run(&servers, |stream| echo(stream, |_, _| {}));
    idler.kill().unwrap();
    idler.wait().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(line.contains(r#""least_server_cpu_seconds": 0.00"#), "{line}");
    assert!(!line.contains(r#""server_cpu_seconds": 0.000000000"#), "{line}");
}

/// Runs the generator with two connections, of which the second is accepted later than warm-up and window could be over,
/// and returns what `serve` has counted there.
fn accept_late(arguments: &[&str], serve: fn(TcpStream, &Cell<usize>)) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        thread::spawn(move || serve(first, &Cell::new(0)));
        thread::sleep(Duration::from_millis(300));
        let (second, _) = listener.accept().unwrap();
        let count = Cell::new(0);
        serve(second, &count);
        count.get()
    });
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--tcp", &address, "--connections", "2"])
        .args(["--warm-up-ms", "10", "--window-ms", "100"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.join().unwrap()
}

#[test]
fn connection_that_is_accepted_late_has_a_part_in_the_window() {
    let echoed = accept_late(&["--echo", "64"], |stream, bytes| {
        echo(stream, |total, _| bytes.set(total));
    });
    let uploaded = accept_late(&["--upload", "64"], |stream, intervals| {
        acknowledge(64, stream, |number, byte| {
            intervals.set(number);
            byte
        });
    });
    let downloaded = accept_late(DOWNLOAD, |stream, rounds| {
        send_numbers(stream, |round, _| rounds.set(round));
    });
    let visited = accept_late(&["--echo", "64", "--invite"], |stream, visits| {
        visit(stream, |visit, _| visits.set(visit));
    });
    for count in [echoed, uploaded, downloaded, visited] {
        assert!(count > 1, "{echoed} {uploaded} {downloaded} {visited}");
    }
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

/// What the generator makes of a server that says `words` on each connection and closes it.
fn greet(words: &'static [u8]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(words);
        }
    });
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--tcp", &address, "--connect", "--greeting", "welcome"])
        .args(["--warm-up-ms", "10", "--window-ms", "100"])
        .output()
        .unwrap()
}

#[test]
fn greetings_are_counted() {
    let output = greet(b"welcome");
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
    assert!(!line.starts_with(r#"{"operations": 1,"#), "{line}");
}

#[test]
fn wrong_missing_or_surplus_bytes_of_a_greeting_fail() {
    let words: [(&[u8], _); 3] =
        [(b"welcame", "wrong bytes"), (b"welcom", "the server closed"), (b"welcome!", "bytes")];
    for (words, complaint) in words {
        let output = greet(words);
        assert!(String::from_utf8_lossy(&output.stderr).contains(complaint));
    }
}

#[test]
fn faithful_echo_over_tls_is_counted() {
    let output = run_tls(&["--echo", "1000"], echo_and_goodbye);
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
}

#[test]
fn large_echo_over_tls_survives_partial_writes() {
    let output = run_tls(&["--echo", "3000000"], echo_and_goodbye);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn one_flipped_bit_under_tls_fails() {
    let output = run_tls(&["--echo", "100000"], |stream| {
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
fn surplus_bytes_under_tls_fail() {
    let output = run_tls(&["--request", "ping", "--reply", "pong"], |mut stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.write_all(b"pong!").unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("more bytes"));
}

#[test]
fn truncated_tls_fails() {
    let output = run_tls(&["--echo", "10"], |mut stream| stream.read_exact(&mut [0; 10]).unwrap());
    assert!(String::from_utf8_lossy(&output.stderr).contains("close_notify"));
}

#[test]
fn server_that_does_not_speak_tls_fails() {
    let output = generate("--tls", &["--echo", "10"], |stream| echo(stream, |_, _| {}));
    assert!(!output.status.success());
}

/// Serves connections, each for one echo and an orderly end, as fast as they come; `config` may change in between.
fn reconnecting(
    arguments: &[&str],
    config: impl Fn(usize) -> Arc<ServerConfig> + Send + 'static,
) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for number in 0.. {
            let session = ServerConnection::new(config(number)).unwrap();
            let mut stream = TlsStream::new(session, listener.accept().unwrap().0);
            let mut buffer = [0; 1000];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..count]).unwrap();
            }
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
    });
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--tls", &address, "--echo", "64", "--reconnect", "--warm-up-ms", "50"])
        .args(["--window-ms", "100"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn whole_connections_are_counted() {
    for options in [&[][..], &["--resume"]] {
        let output = reconnecting(options, |_| server_config());
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
    }
}

#[test]
fn session_that_the_server_forgot_fails() {
    let forgetful = new_server_config();
    let output = reconnecting(&["--resume", "--window-ms", "10000"], move |number| {
        if number == 3 {
            forgetful.clone()
        } else {
            server_config()
        }
    });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("wrong kind: Full"), "{complaint}");
}

#[test]
fn end_without_goodbye_fails() {
    let output = run_tls(&["--echo", "64", "--reconnect"], |mut stream| {
        stream.read_exact(&mut [0; 64]).unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("close_notify"));
}

/// Answers every 16 messages of `size` bytes with the last byte, `spoil`ed.
fn acknowledge(size: usize, mut stream: impl Read + Write, spoil: impl Fn(usize, u8) -> u8) {
    let mut interval = vec![0; 16 * size];
    for number in 0.. {
        let Ok(()) = stream.read_exact(&mut interval) else { return };
        // The slower side, so that an answer comes while messages wait for room in the socket.
        thread::sleep(Duration::from_millis(2));
        if stream.write_all(&[spoil(number, interval[interval.len() - 1])]).is_err() {
            return;
        }
    }
}

#[test]
fn upload_is_counted_in_messages() {
    let outputs = [1000, 1 << 16].map(|size| {
        let arguments = ["--upload", &size.to_string()];
        [
            run(&arguments, move |stream| acknowledge(size, stream, |_, byte| byte)),
            run_tls(&arguments, move |stream| acknowledge(size, stream, |_, byte| byte)),
        ]
    });
    for output in outputs.into_iter().flatten() {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = String::from_utf8(output.stdout).unwrap();
        let digits = line.trim_start_matches(r#"{"operations": "#);
        let operations: usize = digits[..digits.find(',').unwrap()].parse().unwrap();
        assert!(operations > 0 && operations.is_multiple_of(16), "{line}");
    }
}

#[test]
fn wrong_answer_to_an_upload_fails() {
    let output = run_tls(&["--upload", "1000"], |stream| {
        acknowledge(1000, stream, |number, byte| byte ^ (number == 5) as u8);
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
}

#[test]
fn answer_to_an_upload_that_was_not_sent_yet_fails() {
    // Sixteen of these fit into no socket.
    let output = run(&["--upload", "10000000"], |mut stream| {
        stream.write_all(&[0]).unwrap();
        let _ = stream.read_exact(&mut vec![0; 160_000_000]);
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("before the end"));
}

/// Answers when `count` bytes have come, in the order that `reorder` makes.
fn echo_together(mut stream: TcpStream, count: usize, reorder: fn(&mut Vec<u8>)) {
    let mut bytes = vec![0; count];
    while let Ok(()) = stream.read_exact(&mut bytes) {
        let mut answers = bytes.clone();
        reorder(&mut answers);
        if stream.write_all(&answers).is_err() {
            return;
        }
    }
}

#[test]
fn several_requests_are_under_way() {
    let output = run(&["--echo", "1000", "--pipeline", "16"], |stream| {
        echo_together(stream, 16_000, |_| {});
    });
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
    assert!(line.contains(r#""latency_p99_us": "#), "{line}");
}

#[test]
fn large_pipelined_echo_survives_partial_writes() {
    for run in [
        run(&["--echo", "300000", "--pipeline", "8"], |stream| echo(stream, |_, _| {})),
        run_tls(&["--echo", "300000", "--pipeline", "8"], echo_and_goodbye),
    ] {
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn answers_in_another_order_fail() {
    let output = run(&["--echo", "1000", "--pipeline", "2"], |stream| {
        echo_together(stream, 2000, |answers| answers.rotate_left(1000));
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
}

#[test]
fn surplus_bytes_behind_pipelined_answers_fail() {
    let output = run(&["--request", "ping", "--reply", "ping", "--pipeline", "2"], |stream| {
        echo_together(stream, 8, |answers| answers.push(b'!'));
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("more bytes"));
}

#[test]
fn lines_end_with_a_newline_and_have_no_other() {
    let (sender, receiver) = mpsc::channel();
    let output = run(&["--lines", "100"], move |mut stream| {
        let lines = BufReader::new(stream.try_clone().unwrap()).split(b'\n');
        for line in lines.map_while(Result::ok) {
            stream.write_all(&[&line[..], b"\n"].concat()).unwrap();
            sender.send(line.len()).unwrap();
        }
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(receiver.iter().all(|length| length == 99));
}

/// Sends what `--download 1000 --variety 7` expects, `spoil`ed, until the generator ends its side; whether it did.
fn send_numbers(mut stream: TcpStream, spoil: impl Fn(usize, &mut Vec<u8>)) -> bool {
    let numbers: Vec<u8> = (0..7 * 250u32).flat_map(u32::to_le_bytes).collect();
    for round in 0.. {
        let mut bytes = numbers.clone();
        spoil(round, &mut bytes);
        if stream.write_all(&bytes).is_err() {
            return false;
        }
        stream.set_nonblocking(true).unwrap();
        let end = stream.read(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        match end {
            Ok(0) => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return false,
        }
    }
    unreachable!()
}

const DOWNLOAD: &[&str] = &["--download", "1000", "--variety", "7"];

#[test]
fn download_is_counted_and_ends_in_order() {
    let (sender, receiver) = mpsc::channel();
    let output = run(DOWNLOAD, move |stream| {
        sender.send(send_numbers(stream, |_, _| {})).unwrap();
    });
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
    assert!(receiver.recv().unwrap());
}

#[test]
fn wrong_missing_or_repeated_bytes_of_a_download_fail() {
    let spoils: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes[6999] ^= 1,
        |bytes| bytes.truncate(6000),
        |bytes| bytes.extend_from_within(6000..),
    ];
    for spoil in spoils {
        let arguments = [DOWNLOAD, &["--window-ms", "10000"]].concat();
        let output = run(&arguments, move |stream| {
            send_numbers(stream, |round, bytes| {
                if round == 5 {
                    spoil(bytes);
                }
            });
        });
        assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
    }
}

#[test]
fn download_that_ends_by_itself_fails() {
    let output = run(DOWNLOAD, |mut stream| stream.write_all(&[0; 4]).unwrap());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the server closed"));
}

/// Accepts WebSocket with the header `acceptance`, then echoes messages of 1000 bytes whose bytes are `spoil`ed.
fn echo_websocket(stream: TcpStream, acceptance: &str, spoil: fn(&mut [u8])) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while !reader.by_ref().lines().next().unwrap().unwrap().is_empty() {}
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{acceptance}\r\n\r\n");
    writer.write_all(head.as_bytes()).unwrap();
    let mut message = [0; 8 + 1000];
    while let Ok(()) = reader.read_exact(&mut message) {
        let (head, payload) = message.split_at_mut(8);
        assert_eq!(head[..4], [0x82, 0x80 | 126, 0x03, 0xe8]);
        for (byte, mask) in payload.iter_mut().zip(head[4..].iter().cycle()) {
            *byte ^= mask;
        }
        spoil(payload);
        let answer = [&[0x82, 126, 0x03, 0xe8], &*payload].concat();
        if writer.write_all(&answer).is_err() {
            return;
        }
    }
}

const ACCEPTANCE: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[test]
fn websocket_messages_are_counted() {
    let output = generate("--websocket", &["--frames", "1000"], |stream| {
        echo_websocket(stream, ACCEPTANCE, |_| {});
    });
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
}

#[test]
fn wrong_byte_in_a_websocket_message_fails() {
    let output = generate("--websocket", &["--frames", "1000"], |stream| {
        echo_websocket(stream, ACCEPTANCE, |payload| payload[999] ^= 1);
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong bytes"));
}

#[test]
fn websocket_that_is_not_accepted_fails() {
    let output = generate("--websocket", &["--frames", "1000"], |stream| {
        echo_websocket(stream, "Sec-WebSocket-Accept: c29tZXRoaW5nIGVsc2U=", |_| {});
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("did not accept"));
}

/// Follows an invitation: connects for an echo of 64 bytes, `spoil`ed, again and again until the generator has enough.
fn visit(mut invitation: TcpStream, spoil: impl Fn(usize, &mut Vec<u8>)) {
    let mut port = String::new();
    BufReader::new(invitation.try_clone().unwrap()).read_line(&mut port).unwrap();
    invitation.set_nonblocking(true).unwrap();
    for visit in 0.. {
        if invitation.read(&mut [0]).is_ok_and(|count| count == 0) {
            return;
        }
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port.trim().parse().unwrap())) else {
            return;
        };
        let mut bytes = vec![0; 64];
        if stream.read_exact(&mut bytes).is_err() {
            return;
        }
        spoil(visit, &mut bytes);
        stream.write_all(&bytes).unwrap();
    }
}

#[test]
fn connections_of_the_server_are_counted() {
    let (sender, receiver) = mpsc::channel();
    let output = run(&["--echo", "64", "--invite"], move |stream| {
        visit(stream, |_, _| {});
        sender.send(()).unwrap();
    });
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!line.starts_with(r#"{"operations": 0"#), "{line}");
    receiver.recv().unwrap();
}

#[test]
fn wrong_bytes_from_a_connection_of_the_server_fail() {
    let spoils: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes[63] ^= 1, |bytes| bytes.truncate(63), |bytes| bytes.push(0)];
    let complaints = ["wrong bytes", "the server closed", "more bytes"];
    for (spoil, complaint) in spoils.into_iter().zip(complaints) {
        let output = run(&["--echo", "64", "--invite", "--window-ms", "10000"], move |stream| {
            visit(stream, |visit, bytes| {
                if visit == 3 {
                    spoil(bytes);
                }
            });
        });
        assert!(String::from_utf8_lossy(&output.stderr).contains(complaint));
    }
}

#[test]
fn server_that_declines_an_invitation_fails() {
    let output = run(&["--echo", "64", "--invite"], |stream| {
        BufReader::new(stream).read_line(&mut String::new()).unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not want"));
}

/// Asks for the memory of `count` idle connections to this process, which treats each as `serve` does.
fn hold(count: usize, serve: fn(TcpStream)) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--tcp", &address, "--echo", "64", "--idle", "--connections", &count.to_string()])
        .args(["--server-pid", &std::process::id().to_string()])
        .output()
        .unwrap()
}

#[test]
fn memory_of_idle_connections_is_reported() {
    let output = hold(20, |stream| echo(stream, |_, _| {}));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with(r#"{"connections": 20, "server_bytes_before": "#), "{line}");
    assert!(!line.contains(": 0"), "{line}");
}

#[test]
fn idle_connection_that_the_server_drops_fails() {
    let output = hold(1, |mut stream| {
        let mut buffer = [0; 64];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("the server closed"));
}

#[test]
fn generator_leaves_between_messages() {
    let (sender, receiver) = mpsc::channel();
    let output = run(&["--echo", "100000"], move |mut stream| {
        let mut total = 0;
        let mut buffer = vec![0; 1000];
        let end = loop {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => {
                    total += count;
                    stream.write_all(&buffer[..count]).unwrap();
                }
                end => break end,
            }
        };
        sender.send((end.unwrap(), total % 100_000)).unwrap();
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(receiver.recv().unwrap(), (0, 0));
}

#[test]
fn generator_closes_tls_in_order() {
    let (sender, receiver) = mpsc::channel();
    let output = run_tls(&["--echo", "64"], move |mut stream| {
        let mut buffer = [0; 64];
        while let Ok(()) = stream.read_exact(&mut buffer) {
            stream.write_all(&buffer).unwrap();
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        sender.send(stream.read(&mut buffer).unwrap()).unwrap(); // without close_notify, an error
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(receiver.recv().unwrap(), 0);
}

#[test]
fn generator_answers_a_server_that_ends_tls_first() {
    let (sender, receiver) = mpsc::channel();
    run_tls(&["--connect"], move |mut stream| {
        stream.conn.complete_io(&mut stream.sock).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        sender.send(stream.read(&mut [0]).unwrap()).unwrap(); // without close_notify, an error
    });
    assert_eq!(receiver.recv().unwrap(), 0);
}

#[test]
fn older_version_of_tls_is_spoken_if_asked_for() {
    let old = tls::version("1.2").unwrap();
    let output = generate("--tls", &["--tls-version", "1.2", "--echo", "1000"], move |socket| {
        let config = tls::server_config(&new_certificate(), old).unwrap();
        let session = ServerConnection::new(config).unwrap();
        echo_and_goodbye(TlsStream::new(session, socket));
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
