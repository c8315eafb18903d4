use std::time::Duration;

use compio::{
    BufResult,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{JoinHandle, Runtime},
};

use crate::{Meter, Workload};

pub fn main(workload: Workload, meter: Meter) -> f64 {
    Runtime::new().unwrap().block_on(run(workload, meter))
}

fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    compio::runtime::spawn(future)
}

fn joined<T, E: std::fmt::Debug>(outcome: Result<T, E>) -> T {
    outcome.unwrap()
}

fn sleep(delay: Duration) -> impl Future<Output = ()> {
    compio::time::sleep(delay)
}

async fn serve(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let BufResult(result, filled) = stream.read(buffer).await;
        if result.unwrap() == 0 {
            return;
        }
        let BufResult(result, mut sent) = stream.write_all(filled).await;
        result.unwrap();
        sent.clear();
        buffer = sent;
    }
}

async fn echo(size: usize, connections: usize, messages: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        tasks.push(spawn(serve(server)));
        tasks.push(spawn(async move {
            let expected: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut sent = expected.clone();
            let mut received = Vec::with_capacity(size);
            for _ in 0..messages {
                let BufResult(result, buffer) = client.write_all(sent).await;
                result.unwrap();
                sent = buffer;
                received.clear();
                let BufResult(result, buffer) = client.read_exact(received).await;
                result.unwrap();
                received = buffer;
                assert!(received == expected);
            }
        }));
    }
    for task in tasks {
        joined(task.await);
    }
}

crate::workloads!();
