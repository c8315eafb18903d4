//! Sockets behind the traits of `futures-io`, as libraries use them.

use std::{
    io::{ErrorKind, IoSlice},
    time::Duration,
};

use futures_lite::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt,
    io::{BufReader, copy},
};
use velodrome::{TcpListener, TcpStream, UnixStream, create_task, run, timeout};

const MEGABYTE: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(10);

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = create_task(TcpStream::connect(listener.local_addr().unwrap()));
    let (accepted, _) = listener.accept().await.unwrap();
    (connecting.await.unwrap().unwrap(), accepted)
}

fn pattern() -> Vec<u8> {
    (0..MEGABYTE).map(|at| (at % 251) as u8).collect()
}

/// More than the sockets hold goes one way, its end is told, and the other way still works.
async fn half_closes<S: AsyncRead + AsyncWrite + Unpin + 'static>((mut one, mut other): (S, S)) {
    let sending = create_task(async move {
        one.write_all(&pattern()).await.unwrap();
        one.flush().await.unwrap();
        one.close().await.unwrap();
        let refused = one.write_all(b"more").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
        let mut answer = String::new();
        one.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let mut all = Vec::new();
    timeout(LONG, other.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(all == pattern());
    other.write_all(b"answer").await.unwrap();
    drop(other);
    assert_eq!(timeout(LONG, sending).await.unwrap().unwrap(), "answer");
}

#[test]
fn close_ends_the_writing_side_alone() {
    run(async {
        half_closes(UnixStream::pair().unwrap()).await;
        half_closes(tcp_pair().await).await;
    })
    .unwrap();
}

async fn ends_too_early<S: AsyncRead + AsyncWrite + Unpin>((mut one, mut other): (S, S)) {
    one.write_all(b"abc").await.unwrap();
    let mut byte = [0; 1];
    other.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
    drop(one);
    let error = other.read_exact(&mut [0; 3]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn an_end_in_the_middle_is_an_error() {
    run(async {
        ends_too_early(UnixStream::pair().unwrap()).await;
        ends_too_early(tcp_pair().await).await;
    })
    .unwrap();
}

async fn writes_pieces<S: AsyncRead + AsyncWrite + Unpin>((mut one, mut other): (S, S)) {
    let pieces: Vec<_> = [&b"ab"[..], b"", b"cde"].map(IoSlice::new).into();
    assert_eq!(one.write_vectored(&pieces).await.unwrap(), 5);
    let mut buffer = [0; 5];
    other.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"abcde");
}

#[test]
fn pieces_go_out_in_one_call() {
    run(async {
        writes_pieces(UnixStream::pair().unwrap()).await;
        writes_pieces(tcp_pair().await).await;
    })
    .unwrap();
}

#[test]
fn a_connection_is_copied_line_by_line_and_as_a_whole() {
    run(async {
        let ((mut client, server), (proxy, mut target)) =
            (UnixStream::pair().unwrap(), tcp_pair().await);
        let copying = create_task(copy(server, proxy));
        AsyncWriteExt::write_all(&mut client, b"one\ntwo\nthree").await.unwrap();
        client.close().await.unwrap();
        let lines: Vec<_> = BufReader::new(&mut target).lines().map(Result::unwrap).collect().await;
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(copying.await.unwrap().unwrap(), 13);
    })
    .unwrap();
}

/// Reads lines by one reference to a connection and answers by another one.
async fn answers_by_reference<S: AsyncRead + AsyncWrite + Unpin + 'static>(one: S, other: S)
where
    for<'a> &'a S: AsyncRead + AsyncWrite,
{
    let serving = create_task(async move {
        let mut lines = BufReader::new(&other).lines();
        while let Some(line) = lines.next().await {
            (&other).write_all(line.unwrap().to_uppercase().as_bytes()).await.unwrap();
        }
        (&other).close().await.unwrap();
    });
    (&one).write_all(b"first\nlast").await.unwrap();
    (&one).close().await.unwrap();
    let mut answer = String::new();
    timeout(LONG, (&one).read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "FIRSTLAST");
    serving.await.unwrap();
}

#[test]
fn references_read_and_write() {
    run(async {
        let (one, other) = UnixStream::pair().unwrap();
        answers_by_reference(one, other).await;
        let (one, other) = tcp_pair().await;
        answers_by_reference(one, other).await;
    })
    .unwrap();
}
