//! Three etcd nodes on loopback with their data in memory, for comparison, and a client of their lock service.
//!
//! The client speaks gRPC by itself over one connection: HTTP/2 frames, header lists without compression. What it has
//! under way is far below the window that a server opens, so it does not count windows.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds that the lease of the client lives.
const TTL: u64 = 3600;

/// Three etcd nodes. They end when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Child>,
    clients: Vec<u16>,
    folder: PathBuf,
}

impl Cluster {
    /// Starts them and waits until they answer.
    ///
    /// # Errors
    /// If there is no etcd here, or it does not come up; in words.
    pub fn start() -> Result<Self, String> {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { env::temp_dir() };
        let folder = folder.join(format!("bench-etcd-{}", process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let peer = |at: usize| format!("http://127.0.0.1:{}", peers[at]);
        let all: Vec<String> = (0..NODES).map(|at| format!("n{at}={}", peer(at))).collect();
        let mut cluster = Self { nodes: Vec::new(), clients: clients.to_vec(), folder };
        for (at, port) in clients.iter().enumerate() {
            let client = format!("http://127.0.0.1:{port}");
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("n{at}"), "--initial-cluster", &all.join(",")]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer(at), "--initial-advertise-peer-urls", &peer(at)]);
            command.arg("--data-dir").arg(cluster.folder.join(format!("n{at}")));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            cluster.nodes.push(command.spawn().map_err(|error| format!("etcd: {error}"))?);
        }
        let started = Instant::now();
        loop {
            match cluster.client() {
                Ok(_) => return Ok(cluster),
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// A client of the first node, with a lease.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn client(&self) -> Result<Client, String> {
        Client::connect(self.clients[0])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let ended = node.kill().and_then(|()| node.wait());
            debug_assert!(ended.is_ok(), "a child can be ended");
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bound: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let ports = bound.and_then(|all| all.iter().map(|l| l.local_addr().map(|a| a.port())).collect());
    ports.map_err(|error| error.to_string())
}

/// A connection and a lease.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    next: u32,
    lease: u64,
    /// What has come of the answers under way.
    bodies: HashMap<u32, Vec<u8>>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

impl Client {
    fn connect(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.map_err(|error| error.to_string())?;
        let mut client = Self { stream, buffer: Vec::new(), next: 1, lease: 0, bodies: HashMap::new() };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // A window of 16 MiB for each answer, and for all together.
        put_frame(&mut hello, (SETTINGS, 0, 0), &[0, 4, 1, 0, 0, 0]);
        put_frame(&mut hello, (WINDOW, 0, 0), &(1_u32 << 30).to_be_bytes());
        client.write(&hello)?;
        let granted = client.call("/etcdserverpb.Lease/LeaseGrant", &number_field(1, TTL))?;
        client.lease = fields(&granted)?.number(2).ok_or("a lease without an id")?;
        Ok(client)
    }

    /// Locks `name`, and gives the key that `unlock` takes.
    ///
    /// # Errors
    /// If the service does not say that it is locked.
    pub fn lock(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let request = self.lock_request(name);
        let answer = self.call("/v3lockpb.Lock/Lock", &request)?;
        Ok(fields(&answer)?.bytes(2).ok_or("a lock without a key")?.to_vec())
    }

    /// # Errors
    /// If the service does not say that it is unlocked.
    pub fn unlock(&mut self, key: &[u8]) -> Result<(), String> {
        self.call("/v3lockpb.Lock/Unlock", &bytes_field(1, key)).map(drop)
    }

    /// Pairs of lock and unlock in a second, `width` at a time, each with a name of its own.
    ///
    /// # Errors
    /// If the service fails.
    pub fn rate(&mut self, width: usize, time: Duration) -> Result<f64, String> {
        let mut open: HashMap<u32, (usize, bool)> = HashMap::new();
        let mut out = Vec::new();
        for at in 0..width {
            let request = self.lock_request(&format!("rate/{at}"));
            open.insert(self.put_call(&mut out, "/v3lockpb.Lock/Lock", &request), (at, true));
        }
        self.write(&out)?;
        let started = Instant::now();
        let mut pairs = 0_u32;
        while !open.is_empty() {
            let (stream, answer) = self.answer()?;
            let (at, locked) = open.remove(&stream).ok_or("an answer to nothing")?;
            out.clear();
            if locked {
                let key = bytes_field(1, fields(&answer)?.bytes(2).ok_or("a lock without a key")?);
                open.insert(self.put_call(&mut out, "/v3lockpb.Lock/Unlock", &key), (at, false));
            } else {
                pairs += 1;
                if started.elapsed() < time {
                    let request = self.lock_request(&format!("rate/{at}"));
                    open.insert(self.put_call(&mut out, "/v3lockpb.Lock/Lock", &request), (at, true));
                }
            }
            self.write(&out)?;
        }
        Ok(f64::from(pairs) / started.elapsed().as_secs_f64())
    }

    fn lock_request(&self, name: &str) -> Vec<u8> {
        [bytes_field(1, name.as_bytes()), number_field(2, self.lease)].concat()
    }

    fn call(&mut self, path: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let stream = self.put_call(&mut out, path, message);
        self.write(&out)?;
        let (answered, answer) = self.answer()?;
        if answered == stream { Ok(answer) } else { Err("an answer to something else".to_owned()) }
    }

    fn put_call(&mut self, out: &mut Vec<u8>, path: &str, message: &[u8]) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that nobody need remember.
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len()).expect("short headers"));
                head.extend_from_slice(text.as_bytes());
            }
        }
        put_frame(out, (HEADERS, END_HEADERS, stream), &head);
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).expect("a short message").to_be_bytes());
        body.extend_from_slice(message);
        put_frame(out, (DATA, END_STREAM, stream), &body);
        stream
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| error.to_string())
    }

    /// The next answer that is complete.
    fn answer(&mut self) -> Result<(u32, Vec<u8>), String> {
        loop {
            let (kind, flags, stream, payload) = self.frame()?;
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    let mut ack = Vec::new();
                    put_frame(&mut ack, (SETTINGS, ACK, 0), &[]);
                    self.write(&ack)?;
                }
                PING if flags & ACK == 0 => {
                    let mut ack = Vec::new();
                    put_frame(&mut ack, (PING, ACK, 0), &payload);
                    self.write(&ack)?;
                }
                RESET | GO_AWAY => return Err("etcd ends the connection".to_owned()),
                DATA => self.bodies.entry(stream).or_default().extend_from_slice(&payload),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                let body = self.bodies.remove(&stream).unwrap_or_default();
                let message = body.get(5..).ok_or("etcd refuses the call")?;
                return Ok((stream, message.to_vec()));
            }
        }
    }

    fn frame(&mut self) -> Result<(u8, u8, u32, Vec<u8>), String> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>().copied() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer[9..9 + length].to_vec();
                    self.buffer.drain(..9 + length);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
                    return Ok((head[3], head[4], stream, payload));
                }
            }
            let mut more = [0; 16 << 10];
            match self.stream.read(&mut more) {
                Ok(0) => return Err("etcd closed the connection".to_owned()),
                Ok(count) => self.buffer.extend_from_slice(&more[..count]),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn put_frame(out: &mut Vec<u8>, (kind, flags, stream): (u8, u8, u32), payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value.to_le_bytes()[0] | 128);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn number_field(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    put_varint(&mut out, value);
    out
}

fn bytes_field(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    put_varint(&mut out, value.len() as u64);
    out.extend_from_slice(value);
    out
}

/// The fields of a message: numbers, and texts or messages.
#[derive(Debug, Default)]
struct Fields<'a> {
    numbers: Vec<(u64, u64)>,
    bytes: Vec<(u64, &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn number(&self, field: u64) -> Option<u64> {
        self.numbers.iter().find(|(f, _)| *f == field).map(|(_, value)| *value)
    }

    fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.bytes.iter().find(|(f, _)| *f == field).map(|(_, value)| *value)
    }
}

fn fields(mut message: &[u8]) -> Result<Fields<'_>, String> {
    let mut found = Fields::default();
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => found.numbers.push((key >> 3, take_varint(&mut message)?)),
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).unwrap_or(usize::MAX);
                let (value, rest) = message.split_at_checked(length).ok_or("a field without its end")?;
                found.bytes.push((key >> 3, value));
                message = rest;
            }
            _ => return Err("a kind of field that is not used here".to_owned()),
        }
    }
    Ok(found)
}

fn take_varint(message: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().ok_or("a number without its end")?;
        *message = rest;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(value);
        }
    }
    Err("a number that does not end".to_owned())
}
