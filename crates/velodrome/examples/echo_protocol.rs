//! asyncio's "TCP echo server" and "TCP echo client", by transports and protocols.
//!
//! `cargo run -p velodrome --example echo_protocol`

use std::{error::Error, io, rc::Rc};

use velodrome::{Event, Protocol, Transport, get_running_loop, run};

/// The server's side: sends back what it gets, and closes.
#[derive(Default)]
struct EchoServerProtocol {
    transport: Option<Transport>,
}

impl Protocol for EchoServerProtocol {
    fn connection_made(&mut self, transport: Transport) {
        println!("Connection from {:?}", transport.peer_addr());
        self.transport = Some(transport);
    }

    fn data_received(&mut self, data: &[u8]) {
        let message = String::from_utf8_lossy(data);
        println!("Data received: {message:?}");
        let transport = self.transport.as_ref().expect("the connection was made");
        println!("Send: {message:?}");
        transport.write(data);
        println!("Close the client socket");
        transport.close();
    }
}

/// The client's side: sends a message, and says when the connection is over.
struct EchoClientProtocol {
    message: String,
    on_con_lost: Rc<Event>,
}

impl Protocol for EchoClientProtocol {
    fn connection_made(&mut self, transport: Transport) {
        transport.write(self.message.as_bytes());
        println!("Data sent: {:?}", self.message);
    }

    fn data_received(&mut self, data: &[u8]) {
        println!("Data received: {:?}", String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        println!("The server closed the connection: {error:?}");
        self.on_con_lost.set();
    }
}

async fn exchange() -> Result<(), Box<dyn Error>> {
    let event_loop = get_running_loop()?;
    let server = event_loop.create_server(EchoServerProtocol::default, "127.0.0.1:0").await?;

    let on_con_lost = Rc::new(Event::new());
    let client =
        EchoClientProtocol { message: "Hello World!".into(), on_con_lost: Rc::clone(&on_con_lost) };
    let (transport, _protocol) =
        event_loop.create_connection(|| client, server.sockets()[0]).await?;
    on_con_lost.wait().await;
    transport.close();

    server.close();
    server.wait_closed().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    run(exchange())?
}
