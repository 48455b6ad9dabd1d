//! An arbiter: decides even splits for any number of clusters, from a third place that all their nodes reach.
//!
//! ```console
//! $ head -c 32 /dev/urandom > /etc/ocf/arbiter.key    # the same file at every node, named as `secret_file`
//! $ cargo run -p ocf-membership --features driver --example arbiter -- 0.0.0.0:5406 /etc/ocf/arbiter.key /var/lib/ocf-arbiter
//! ```
//!
//! It needs a disk of its own that is never set back to an older state, and no more than one may run for a cluster.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use ocf_membership::arbiter::ArbiterConfig;
use ocf_membership::driver::{ArbiterServer, SECRET_MIN};
use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, secret_file, folder] = &arguments[..] else {
        eprintln!("usage: arbiter ADDRESS:PORT SECRET_FILE FOLDER");
        return ExitCode::from(2);
    };
    match serve(address, secret_file, folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arbiter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str, secret_file: &str, folder: &str) -> Result<(), Box<dyn Error>> {
    let secret = fs::read(secret_file).map_err(|error| format!("{secret_file}: {error}"))?;
    let secret = secret.trim_ascii();
    if secret.len() < SECRET_MIN {
        return Err(
            format!("{secret_file}: {} bytes are too few, {SECRET_MIN} are the least", secret.len()).into()
        );
    }
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    let server = ArbiterServer::start(listener, secret, Path::new(folder), ArbiterConfig::default())?;
    println!("listening on {}", server.address());
    server.wait();
    Ok(())
}
