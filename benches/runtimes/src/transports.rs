//! The echo workloads by velodrome's transports and protocols, which no other runtime has.

use std::{io, rc::Rc};

use velodrome::{Event, Protocol, Transport, get_running_loop};

use crate::{Meter, Workload};

pub fn main(workload: Workload, mut meter: Meter) -> f64 {
    let Workload::Echo { size, connections } = workload else {
        panic!("transports are for echo workloads");
    };
    let messages = crate::echo_messages(size, connections);
    velodrome::run(async move {
        while {
            echo(size, connections, messages).await;
            meter.block((messages * connections) as u64)
        } {}
        meter.report()
    })
    .unwrap()
}

#[derive(Default)]
struct Server(Option<Transport>);

impl Protocol for Server {
    fn connection_made(&mut self, transport: Transport) {
        self.0 = Some(transport);
    }

    fn data_received(&mut self, data: &[u8]) {
        self.0.as_ref().expect("the connection was made").write(data);
    }
}

struct Client {
    transport: Option<Transport>,
    sent: Rc<[u8]>,
    received: Vec<u8>,
    messages_left: usize,
    is_over: Rc<Event>,
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: Transport) {
        transport.write(&self.sent);
        self.transport = Some(transport);
    }

    fn data_received(&mut self, data: &[u8]) {
        self.received.extend(data);
        if self.received.len() < self.sent.len() {
            return;
        }
        assert!(self.received == *self.sent);
        self.received.clear();
        self.messages_left -= 1;
        let transport = self.transport.as_ref().expect("the connection was made");
        if self.messages_left == 0 {
            transport.close();
        } else {
            transport.write(&self.sent);
        }
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        assert!(error.is_none() && self.messages_left == 0, "{error:?}");
        self.is_over.set();
    }
}

async fn echo(size: usize, connections: usize, messages: usize) {
    let event_loop = get_running_loop().unwrap();
    let server = event_loop.create_server(Server::default, "127.0.0.1:0").await.unwrap();
    let address = server.sockets()[0];
    let sent: Rc<[u8]> = (0..size).map(|at| at as u8).collect();
    let mut ends = Vec::new();
    for _ in 0..connections {
        let is_over = Rc::new(Event::new());
        ends.push(is_over.clone());
        let client = Client {
            transport: None,
            sent: sent.clone(),
            received: Vec::with_capacity(size),
            messages_left: messages,
            is_over,
        };
        event_loop.create_connection(|| client, address).await.unwrap();
    }
    for is_over in ends {
        is_over.wait().await;
    }
    server.close();
    server.wait_closed().await;
}
