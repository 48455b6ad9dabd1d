use super::frame::{Decoded, Decoder, encode};
use super::kind::{number, switch, text};
use super::{
    Arrival, Burst, Limits, Link, Medium, MediumKind, Opening, PIECE, PIECES, Reach, Reading, Sent,
    port_address, setting,
};
use crate::driver::{IoStats, SetupError};
use pils::Value;
use pils::field::{Basic, Field, Fields};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, ioctl_tiocexcl, isatty, tcgetattr, tcsetattr};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of the largest datagram on a line.
const DATAGRAM_MAX: usize = 9000;
/// Encoded bytes that may wait for the line before it takes no more: what the kernel's buffer of a terminal holds.
const PENDING_MAX: usize = 4096;

/// A serial line.
///
/// Parameters: `device` (`/dev/ttyS0`); `speed` in bits per second, default 115200; `flow_control`, true if the cable has
/// the wires for it (RTS and CTS), which a long or fast line needs; `port`, the number by which both ends know the line
/// ([`port_address`]), default 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct SerialKind;

impl MediumKind for SerialKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("device", Basic::String).required().short("The terminal device: /dev/ttyS0"),
            Field::new("speed", Basic::Integer)
                .range(1200, 4_000_000)
                .default(115_200)
                .short("Bits per second, the same at both ends"),
            Field::new("flow_control", Basic::Boolean).default(false).short("The cable has RTS and CTS"),
            Field::new("port", Basic::Integer)
                .range(0, 65_535)
                .default(0)
                .short("Number of the line at both ends"),
        ])
    }

    fn open(&self, parameters: &Value, _opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let device = text(parameters, "device").unwrap_or_default();
        let speed = number(parameters, "speed").unwrap_or(115_200);
        let flow_control = switch(parameters, "flow_control");
        let line = SerialLine::open(device, speed, flow_control, number(parameters, "port").unwrap_or(0))?;
        Ok(Box::new(line))
    }
}

/// An open serial line that carries datagrams.
#[derive(Debug)]
pub struct SerialLine {
    device: String,
    fd: OwnedFd,
    speed: u32,
    port: u32,
    decoder: Decoder,
    /// Encoded, not written yet.
    pending: Vec<u8>,
    link: Link,
}

impl SerialLine {
    /// Opens `device` for this process alone, raw, at `speed` bits per second.
    ///
    /// # Errors
    /// [`SetupError`]: says what to do.
    pub fn open(device: &str, speed: u32, flow_control: bool, port: u32) -> Result<Self, SetupError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(device, flags, Mode::empty()).map_err(|error| {
            let fix = match error {
                Errno::NOENT => "there is no such device: look for the right one in /dev",
                Errno::ACCESS => "no right to open it: add this user to the group that owns it (dialout)",
                Errno::BUSY => "another program has it open: stop that, a getty perhaps",
                _ => "it cannot be opened: is it a serial line?",
            };
            setting("serial", "device", device, fix)
        })?;
        if !isatty(&fd) {
            return Err(setting(
                "serial",
                "device",
                device,
                "it is no terminal device: give one such as /dev/ttyS0",
            ));
        }
        let failed = || SetupError::system("cannot set up the serial line");
        ioctl_tiocexcl(&fd).map_err(failed())?;
        let mut modes = tcgetattr(&fd).map_err(failed())?;
        modes.make_raw();
        modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        modes.control_modes.set(ControlModes::CRTSCTS, flow_control);
        if modes.set_speed(speed).and_then(|()| tcsetattr(&fd, OptionalActions::Flush, &modes)).is_err() {
            return Err(setting("serial", "speed", speed, "the line does not do this speed: try 115200"));
        }
        let (device, decoder) = (device.to_owned(), Decoder::new(DATAGRAM_MAX));
        Ok(Self { device, fd, speed, port, decoder, pending: Vec::new(), link: Link::Unknown })
    }
}

impl Medium for SerialLine {
    fn name(&self) -> String {
        format!("serial {}", self.device)
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(port_address(self.port))
    }

    fn limits(&self) -> Limits {
        // Ten bits per byte, a quarter of a second; two datagrams of usual size at least.
        let queue = usize::try_from(self.speed / 40).unwrap_or(usize::MAX).max(3000);
        Limits {
            datagram_max: DATAGRAM_MAX,
            queue_max: Some(queue),
            reach: Reach::PointToPoint,
            bursts: false,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let mut taken = 0;
        for datagram in burst.data.chunks(burst.segment.max(1)) {
            if datagram.len() > DATAGRAM_MAX {
                stats.too_large += 1;
                taken += datagram.len();
                continue;
            }
            if self.pending.len() > PENDING_MAX && !self.flush() {
                return Sent::Blocked(taken);
            }
            encode(datagram, &mut self.pending);
            stats.sends += 1;
            stats.datagrams_out += 1;
            stats.bytes_out += datagram.len() as u64;
            taken += datagram.len();
        }
        // What the line does not take now stays here; `Blocked` asks to be told when it does.
        if self.flush() { Sent::All } else { Sent::Blocked(taken) }
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        let from = port_address(self.port);
        let mut arrivals = 0;
        for _ in 0..PIECES {
            match rustix::io::read(&self.fd, &mut buffer[..PIECE]) {
                Ok(length) if length > 0 => {
                    self.link = Link::Up;
                    self.decoder.take(&buffer[..length], |decoded| match decoded {
                        Decoded::Datagram(data) => {
                            arrivals += 1;
                            take(Arrival { from, segment: data.len(), data });
                        }
                        Decoded::Bad => stats.receive_errors += 1,
                    });
                }
                Err(Errno::AGAIN) => return Reading { arrivals, more: false },
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    // Hung up: no more edges come until the other end is there again.
                    self.link = Link::Down;
                    stats.receive_errors += 1;
                    return Reading { arrivals, more: false };
                }
            }
        }
        Reading { arrivals, more: true }
    }

    fn flush(&mut self) -> bool {
        let mut written = 0;
        let empty = loop {
            if written == self.pending.len() {
                break true;
            }
            match rustix::io::write(&self.fd, &self.pending[written..]) {
                Ok(length) => written += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                Err(error) => {
                    tracing::trace!(%error, device = self.device, "line lost");
                    written = self.pending.len();
                }
            }
        };
        self.pending.drain(..written);
        empty
    }

    fn link(&self) -> Link {
        self.link
    }
}
