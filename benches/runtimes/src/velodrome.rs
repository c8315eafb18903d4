use std::time::Duration;

use velodrome::{Task, TaskError, TcpListener, TcpStream, create_task};

use crate::{Meter, Workload};

pub fn main(workload: Workload, meter: Meter) -> f64 {
    velodrome::run(run(workload, meter)).unwrap()
}

fn spawn<F: Future + 'static>(future: F) -> Task<F::Output> {
    create_task(future)
}

fn joined<T>(outcome: Result<T, TaskError>) -> T {
    outcome.unwrap()
}

fn sleep(delay: Duration) -> velodrome::Sleep {
    velodrome::sleep(delay)
}

async fn serve(stream: TcpStream) {
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
        let client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
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
