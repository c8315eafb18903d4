use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use async_executor::{LocalExecutor, Task};
use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};

use crate::{Meter, Workload};

thread_local! {
    static EXECUTOR: LocalExecutor<'static> = const { LocalExecutor::new() };
}

pub fn main(workload: Workload, meter: Meter) -> f64 {
    EXECUTOR.with(|executor| async_io::block_on(executor.run(run(workload, meter))))
}

fn spawn<F: Future + 'static>(future: F) -> Task<F::Output> {
    EXECUTOR.with(|executor| executor.spawn(future))
}

fn joined<T>(output: T) -> T {
    output
}

async fn sleep(delay: Duration) {
    Timer::after(delay).await;
}

async fn serve(mut stream: Async<TcpStream>) {
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
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.get_ref().local_addr().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (client, accepted) =
            future::zip(Async::<TcpStream>::connect(address), listener.accept()).await;
        let (mut client, (server, _)) = (client.unwrap(), accepted.unwrap());
        client.get_ref().set_nodelay(true).unwrap();
        server.get_ref().set_nodelay(true).unwrap();
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
        task.await;
    }
}

crate::workloads!();
