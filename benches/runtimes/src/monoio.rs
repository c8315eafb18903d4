use std::time::Duration;

use monoio::{
    io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRentExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{Meter, Workload};

pub fn main(workload: Workload, meter: Meter) -> f64 {
    // io_uring where the kernel lets us, else epoll.
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::FusionDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(run(workload, meter))
}

fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    monoio::spawn(future)
}

fn joined<T>(output: T) -> T {
    output
}

fn sleep(delay: Duration) -> monoio::time::Sleep {
    monoio::time::sleep(delay)
}

async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (result, filled) = stream.read(buffer).await;
        if result.unwrap() == 0 {
            return;
        }
        let (result, sent) = stream.write_all(filled).await;
        result.unwrap();
        buffer = sent;
    }
}

async fn echo(size: usize, connections: usize, messages: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        tasks.push(spawn(serve(server)));
        tasks.push(spawn(async move {
            let expected: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut sent = expected.clone();
            let mut received = vec![0; size];
            for _ in 0..messages {
                let (result, buffer) = client.write_all(sent).await;
                result.unwrap();
                sent = buffer;
                let (result, buffer) = client.read_exact(received).await;
                result.unwrap();
                received = buffer;
                assert!(received == expected);
            }
        }));
    }
    for task in tasks {
        task.await;
    }
}

crate::workloads!();
