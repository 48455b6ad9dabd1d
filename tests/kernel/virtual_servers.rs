//! Virtual servers of the kernel (`ip_vs`), kept by `ldirectord` through its agent.

use crate::agents::{Resource, load};
use crate::machine::{inside, sh, wait_for};
use ocf_resource::{Action, OcfCode, Outcome};
use std::fs;
use std::process::{Child, Command, Stdio};

const FILE: &str = "/run/servers.cf";
const SERVERS: &str = "checktimeout = 1\ncheckinterval = 1\nautoreload = no\nquiescent = no\n\
    virtual = 127.0.0.1:8000\n\
    \x20   real = 127.0.0.2:8001 masq\n\x20   real = 127.0.0.3:8001 masq\n\
    \x20   checktype = connect\n    scheduler = rr\n    protocol = tcp\n";

/// What the kernel has.
fn table() -> String {
    sh("ipvsadm -Ln")
}

fn has(server: &str) -> bool {
    table().contains(&format!("-> {server}:8001"))
}

/// A server that can be ended.
struct Server(Child);

impl Server {
    fn start(address: &str) -> Self {
        let mut python = Command::new("python3");
        python.args(["-m", "http.server", "--bind", address, "--directory", "/run", "8001"]);
        Self(python.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"))
    }

    fn end(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("its end");
    }
}

#[test]
#[ignore = "needs qemu and a kernel of the distribution in the target folder"]
fn ldirectord_takes_a_dead_server_out_of_the_kernel_and_all_of_them_when_it_is_stopped() {
    inside(|| {
        load("ip_vs ip_vs_rr");
        fs::write(FILE, SERVERS).expect("a file");
        let (one, two) = (Server::start("127.0.0.2"), Server::start("127.0.0.3"));
        let director = Resource::new("director", "ocf:heartbeat:ldirectord", &[("configfile", FILE)], &[]);
        let says = |action| director.does(action).outcome;
        assert_eq!(says(Action::Start), Outcome::Ok);
        wait_for("both servers", || has("127.0.0.2") && has("127.0.0.3"));
        assert!(table().contains("TCP  127.0.0.1:8000 rr"), "{}", table());
        one.end();
        wait_for("the dead server to be taken out", || !has("127.0.0.2"));
        assert!(has("127.0.0.3"), "{}", table());
        let again = Server::start("127.0.0.2");
        wait_for("the server to be put in again", || has("127.0.0.2"));
        assert_eq!(says(Action::Stop), Outcome::Ok);
        let stopped = Outcome::Failed { code: OcfCode::NotRunning };
        wait_for("the kernel to have no virtual server", || !table().contains("127.0.0.1:8000"));
        wait_for("the daemon to end", || says(Action::Monitor) == stopped);
        again.end();
        two.end();
    });
}
