//! Every medium of this crate conforms, and errors say what to do.
use super::*;
use crate::testing::check_medium;
use pils::Value;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

fn open(spec: &MediumSpec) -> Box<dyn Medium> {
    spec.open(&media(), &Opening::default()).unwrap()
}

fn refused(spec: &MediumSpec) -> String {
    spec.open(&media(), &Opening::default()).unwrap_err().to_string()
}

/// A port that nobody has now.
fn free_port() -> u16 {
    open(&MediumSpec::udp("127.0.0.1:0".parse().unwrap())).local().unwrap().port()
}

#[test]
fn udp_over_ipv4_and_ipv6_with_and_without_bursts_conforms() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for offload in [true, false] {
            let opening = Opening { offload, ..Opening::default() };
            let spec = MediumSpec::udp(address.parse().unwrap());
            check_medium(|| {
                let open = || spec.open(&media(), &opening).unwrap();
                (open(), open())
            });
        }
    }
}

#[test]
fn udp_by_the_name_of_an_interface_has_its_address() {
    let medium = open(&MediumSpec::interface("lo", 0));
    assert!(medium.local().unwrap().ip().is_loopback());
}

/// Both ends of a group hear what they send themselves; one end that drops its own makes a pair of it.
#[derive(Debug)]
struct WithoutOwn {
    inner: Box<dyn Medium>,
    sent: std::collections::VecDeque<Vec<u8>>,
}

impl Medium for WithoutOwn {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn local(&self) -> io::Result<SocketAddr> {
        self.inner.local()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let before = stats.datagrams_out;
        let sent = self.inner.send(burst, stats);
        let count = usize::try_from(stats.datagrams_out - before).unwrap();
        self.sent.extend(burst.data.chunks(burst.segment).take(count).map(<[u8]>::to_vec));
        sent
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        let own = &mut self.sent;
        self.inner.receive(buffer, stats, &mut |arrival| {
            // Own datagrams come back in the order they were sent; some may be missing.
            match own.iter().position(|sent| *sent == arrival.data) {
                Some(at) => drop(own.drain(..=at)),
                None => take(arrival),
            }
        })
    }
}

fn pair_without_own(spec: &MediumSpec) -> (Box<dyn Medium>, Box<dyn Medium>) {
    let one = || -> Box<dyn Medium> {
        Box::new(WithoutOwn { inner: open(spec), sent: std::collections::VecDeque::new() })
    };
    (one(), one())
}

#[test]
fn multicast_conforms() {
    let spec = MediumSpec::multicast(([239, 192, 7, 5], free_port()).into(), "lo");
    check_medium(|| pair_without_own(&spec));
}

#[test]
fn broadcast_conforms() {
    let spec = MediumSpec::broadcast(([127, 255, 255, 255], free_port()).into());
    check_medium(|| pair_without_own(&spec));
}

#[test]
fn memory_conforms() {
    let next = AtomicU32::new(0);
    check_medium(|| {
        let number = next.fetch_add(2, Ordering::Relaxed);
        (open(&MediumSpec::memory("conforms", number)), open(&MediumSpec::memory("conforms", number + 1)))
    });
}

/// A pair of terminals joined by a thread that copies bytes, as a null-modem cable does. Ends when a line is closed.
fn cable() -> [(OwnedFd, String); 2] {
    [(); 2].map(|()| {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let name = ptsname(&main, Vec::new()).unwrap().into_string().unwrap();
        (main, name)
    })
}

fn join(ends: [OwnedFd; 2]) {
    let [a, b] = ends;
    let (a2, b2) = (a.as_fd().try_clone_to_owned().unwrap(), b.as_fd().try_clone_to_owned().unwrap());
    for (from, to) in [(a, b2), (b, a2)] {
        std::thread::Builder::new()
            .spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length) = rustix::io::read(&from, &mut buffer[..]) {
                    let mut rest = &buffer[..length];
                    while let Ok(written) = rustix::io::write(&to, rest)
                        && written < rest.len()
                    {
                        rest = &rest[written..];
                    }
                    if length == 0 {
                        return;
                    }
                }
            })
            .unwrap();
    }
}

#[test]
fn a_serial_line_conforms() {
    check_medium(|| {
        let [(a, a_name), (b, b_name)] = cable();
        let line = |name: &str| open(&MediumSpec::serial(name, 115_200, 3));
        let pair = (line(&a_name), line(&b_name));
        join([a, b]);
        pair
    });
}

#[test]
fn every_refusal_says_what_to_do() {
    let with =
        |kind: &str, name: &str, value: &str| refused(&MediumSpec::new(kind, [(name, Value::from(value))]));
    assert!(refused(&MediumSpec::new("pigeon", [("a", 1.into())])).contains("known: broadcast, memory"));
    assert!(with("udp", "adress", "127.0.0.1:1").contains("did you mean address?"));
    assert!(with("udp", "address", "localhost").contains("192.0.2.1:5405"));
    assert!(with("udp", "interface", "no-such0").contains("bring it up"));
    assert!(refused(&MediumSpec::new("udp", [("port", 5.into())])).contains("give one of them"));
    assert!(with("serial", "device", "/dev/no-such").contains("look for the right one"));
    assert!(with("serial", "device", "/dev/null").contains("no terminal device"));
    assert!(with("broadcast", "address", "[::1]:5").contains("ipv6 has multicast"));
    let group = |group: &str, on: &str| refused(&MediumSpec::multicast(group.parse().unwrap(), on));
    assert!(group("10.0.0.1:5", "lo").contains("239.192.0.0/14"));
    assert!(group("239.192.0.1:5", "no-such0").contains("ip link"));
    let _held = open(&MediumSpec::memory("refusals", 1));
    assert!(refused(&MediumSpec::memory("refusals", 1)).contains("choose another"));
}

#[test]
fn a_kind_of_one_s_own_is_opened_by_its_name() {
    #[derive(Debug)]
    struct Mine;
    impl MediumKind for Mine {
        fn fields(&self) -> pils::field::Fields {
            MemoryKind.fields()
        }

        fn open(&self, parameters: &Value, opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
            MemoryKind.open(parameters, opening)
        }
    }
    let media = media();
    media.register("mine", "1", std::sync::Arc::new(Mine) as std::sync::Arc<dyn MediumKind>).unwrap();
    let spec = MediumSpec::new("mine", [("port", 1.into()), ("hub", "mine".into())]);
    assert_eq!(spec.open(&media, &Opening::default()).unwrap().local().unwrap(), port_address(1));
}
