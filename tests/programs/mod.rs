//! A process beside a node: the test that uses this, started again. It takes orders on its input and says on its output, behind
//! `> `, what came of them.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Says to this program at which socket it is to be a program beside a node.
pub(crate) const SOCKET: &str = "OCF_TEST_PROGRAM";

pub(crate) struct Program {
    pub(crate) child: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// One that says `ready` first.
    pub(crate) fn start(at: &str, ready: &str) -> Self {
        let own = std::env::current_exe().expect("this program has a path");
        let mut program = Self::spawn(&mut Self::command(&own, at));
        assert_eq!(program.word(), ready);
        program
    }

    /// Runs the test `a_program_beside_a_node` of a program of tests.
    pub(crate) fn command(program: &Path, at: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--exact", "a_program_beside_a_node", "--nocapture", "--test-threads=1"])
            .env(SOCKET, at);
        command
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let orders = child.stdin.take().expect("it is piped");
        let words = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, orders, words }
    }

    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
    }

    /// What it says next. The harness of tests speaks as well, and not in lines of ours.
    pub(crate) fn word(&mut self) -> String {
        loop {
            let line = self.words.next().expect("it has not ended").expect("it speaks in text");
            if let Some((_, word)) = line.split_once("> ") {
                return word.to_owned();
            }
        }
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.word()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a number of a process"));
        kill_process(pid.expect("not zero"), signal).expect("it is there");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Also one that is stopped. One that ended and was waited for is left alone.
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}
