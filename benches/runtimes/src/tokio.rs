use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinHandle, LocalSet, spawn_local},
};

use crate::{Meter, Workload};

pub fn main(workload: Workload, meter: Meter) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(workload, meter))
}

fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    spawn_local(future)
}

fn joined<T>(outcome: Result<T, JoinError>) -> T {
    outcome.unwrap()
}

fn sleep(delay: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(delay)
}

async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        if count == 0 {
            return;
        }
        stream.write_all(&buffer[..count]).await.unwrap();
    }
}

async fn echo(size: usize, connections: usize, messages: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        tasks.push(spawn(serve(server)));
        tasks.push(spawn(async move {
            let sent: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut received = vec![0; size];
            for _ in 0..messages {
                client.write_all(&sent).await.unwrap();
                client.read_exact(&mut received).await.unwrap();
                assert!(received == sent);
            }
        }));
    }
    for task in tasks {
        joined(task.await);
    }
}

crate::workloads!();
