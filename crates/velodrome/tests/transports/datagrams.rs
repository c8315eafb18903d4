//! Datagram transports and their protocols.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    rc::Rc,
};

use velodrome::{DatagramProtocol, DatagramTransport, Event, new_event_loop, run, timeout};

use crate::recorder::{LONG, Log, the_loop, told, turns, until};

type AtDatagram = Box<dyn FnMut(&DatagramTransport, &[u8])>;

#[derive(Default)]
struct Recorder {
    log: Log,
    transport: Option<DatagramTransport>,
    at_datagram: Option<AtDatagram>,
    is_over: Rc<Event>,
}

impl Recorder {
    fn note(&self, text: String) {
        self.log.borrow_mut().push(text);
    }
}

impl DatagramProtocol for Recorder {
    fn connection_made(&mut self, transport: DatagramTransport) {
        self.note("made".into());
        self.transport = Some(transport);
    }

    fn datagram_received(&mut self, data: &[u8], _from: SocketAddr) {
        self.note(format!("datagram {}", String::from_utf8_lossy(data)));
        let transport = self.transport.clone().expect("it was made");
        if let Some(act) = &mut self.at_datagram {
            act(&transport, data);
        }
    }

    fn error_received(&mut self, error: io::Error) {
        self.note(format!("error {:?}", error.raw_os_error().unwrap()));
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.is_over.set();
        self.note(error.map_or("lost".into(), |error| format!("lost {error}")));
    }
}

fn here() -> Option<SocketAddr> {
    "127.0.0.1:0".parse().ok()
}

fn peer_of(transport: &DatagramTransport) -> UdpSocket {
    let peer = UdpSocket::bind(here().unwrap()).unwrap();
    peer.connect(transport.local_addr().unwrap()).unwrap();
    peer
}

async fn over(is_over: &Event) {
    timeout(LONG, is_over.wait()).await.expect("connection_lost is called");
    turns(3).await;
}

#[test]
fn datagrams_come_and_go_whole_until_it_is_closed() {
    run(async {
        let (log, is_over) = (Log::default(), Rc::new(Event::new()));
        let recorder =
            Recorder { log: log.clone(), is_over: is_over.clone(), ..Recorder::default() };
        let (transport, protocol) =
            the_loop().create_datagram_endpoint(|| recorder, here(), None).await.unwrap();
        let peer = peer_of(&transport);
        for data in ["1", "", "22"] {
            peer.send(data.as_bytes()).unwrap();
        }
        until(|| log.borrow().len() == 4).await;
        transport.sendto(b"back", peer.local_addr().ok());
        let mut answer = [0; 16];
        assert_eq!(peer.recv(&mut answer).unwrap(), 4);
        transport.close();
        transport.abort();
        assert_eq!(log.borrow().len(), 4);
        over(&is_over).await;
        transport.sendto(b"nobody hears it", peer.local_addr().ok());
        let heard = ["made", "datagram 1", "datagram ", "datagram 22", "lost"];
        assert_eq!(*log.borrow(), heard);
        assert_eq!(transport.local_addr(), None, "the descriptor is closed");
        assert_eq!(Rc::strong_count(&protocol), 1);
    })
    .unwrap();
}

#[test]
fn what_a_protocol_does_with_one_datagram_comes_before_the_next() {
    run(async {
        let log = Log::default();
        let recorder = Recorder {
            log: log.clone(),
            at_datagram: Some(Box::new(|transport, _| transport.pause_reading())),
            ..Recorder::default()
        };
        let (transport, _) =
            the_loop().create_datagram_endpoint(|| recorder, here(), None).await.unwrap();
        let peer = peer_of(&transport);
        peer.send(b"1").unwrap();
        peer.send(b"2").unwrap();
        until(|| !transport.is_reading()).await;
        turns(20).await;
        assert_eq!(*log.borrow(), ["made", "datagram 1"]);
        transport.resume_reading();
        until(|| log.borrow().len() == 3).await;
    })
    .unwrap();
}

#[test]
fn an_error_of_the_network_is_told_and_does_not_end_it() {
    const REFUSED: &str = "error 111";
    run(async {
        let log = Log::default();
        let nobody = UdpSocket::bind(here().unwrap()).unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let recorder = Recorder { log: log.clone(), ..Recorder::default() };
        let (transport, _) =
            the_loop().create_datagram_endpoint(|| recorder, None, Some(address)).await.unwrap();
        assert_eq!(transport.peer_addr(), Some(address));
        transport.sendto(b"is somebody there?", None);
        until(|| log.borrow().len() == 2).await;
        assert_eq!(*log.borrow(), ["made", REFUSED]);
        assert!(!transport.is_closing());
    })
    .unwrap();
}

#[test]
fn an_error_of_a_protocols_own_datagram_is_told_after_its_method() {
    const TOO_LONG: &str = "error 90";
    run(async {
        let log = Log::default();
        let seen = log.clone();
        let recorder = Recorder {
            log: log.clone(),
            at_datagram: Some(Box::new(move |transport, _| {
                transport.sendto(&[0; 70_000], "127.0.0.1:9".parse().ok());
                seen.borrow_mut().push("the method is done".into());
            })),
            ..Recorder::default()
        };
        let (transport, _) =
            the_loop().create_datagram_endpoint(|| recorder, here(), None).await.unwrap();
        transport.sendto(&[0; 70_000], "127.0.0.1:9".parse().ok());
        assert_eq!(*log.borrow(), ["made", TOO_LONG]);
        peer_of(&transport).send(b"x").unwrap();
        until(|| log.borrow().len() >= 4).await;
        assert_eq!(log.borrow()[2..], ["datagram x", "the method is done", TOO_LONG]);
    })
    .unwrap();
}

#[test]
fn a_panic_of_a_datagram_protocol_is_told_and_ends_it() {
    let event_loop = new_event_loop();
    let told = told(&event_loop);
    let (log, is_over) = (Log::default(), Rc::new(Event::new()));
    let recorder = Recorder {
        log: log.clone(),
        is_over: is_over.clone(),
        at_datagram: Some(Box::new(|_, _| panic!("broken"))),
        ..Recorder::default()
    };
    let runs = event_loop.clone();
    event_loop
        .run_until_complete(async move {
            let (transport, _) =
                runs.create_datagram_endpoint(|| recorder, here(), None).await.unwrap();
            peer_of(&transport).send(b"x").unwrap();
            over(&is_over).await;
        })
        .unwrap();
    assert_eq!(*told.borrow(), ["Fatal error: protocol.datagram_received() call failed.: broken"]);
    let lost = "lost protocol.datagram_received() panicked: broken";
    assert_eq!(*log.borrow(), ["made", "datagram x", lost]);
}

#[test]
#[should_panic(expected = "Invalid address: must be None or 127.0.0.1:9")]
fn another_address_than_the_peers_is_a_mistake() {
    run(async {
        let peer = "127.0.0.1:9".parse().ok();
        let event_loop = the_loop();
        let made = event_loop.create_datagram_endpoint(Recorder::default, None, peer).await;
        made.unwrap_or_else(|error| panic!("{error}")).0.sendto(b"x", "127.0.0.1:10".parse().ok());
    })
    .unwrap();
}

#[test]
fn an_endpoint_needs_an_address() {
    run(async {
        let made = the_loop().create_datagram_endpoint(Recorder::default, None, None).await;
        assert_eq!(made.err().unwrap().to_string(), "unexpected address family");
    })
    .unwrap();
}
