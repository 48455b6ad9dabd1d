use super::{Command, Mail, enough_to_live};
use core::time::Duration;
use pils::{Instant, Layer};
use std::collections::VecDeque;

/// How a node watches over itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperConfig {
    /// Shared disks: 0 to 3. With none only the cluster keeps the node alive.
    pub disks: usize,
    /// Without its disks or its cluster for so long the node ends. The watchdog's own time; at most half of `msgwait`.
    pub watchdog: Duration,
    /// How often the disks are read. At most a third of `watchdog`.
    pub every: Duration,
}

/// What a [`Keeper`] is told.
#[derive(Clone, Debug)]
pub enum KeeperInput {
    /// A disk was read. `None`: it could not be, or what stands there is not understood.
    Read {
        /// Its place, from 0.
        disk: usize,
        /// The node's own mailbox there.
        mail: Option<Mail>,
    },
    /// The cluster manager says whether this node is healthy and in the primary partition.
    Cluster {
        /// When it was for certain; `None` if it is not. Not when this was heard: a word may have been on its way for long.
        well: Option<Instant>,
    },
    /// The node is to stop watching over itself: nothing runs here any more that would have to be fenced.
    Stop,
}

/// What a [`Keeper`] wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperOutput {
    /// Read the own mailbox of a disk, and answer with [`KeeperInput::Read`].
    Read {
        /// Its place, from 0.
        disk: usize,
    },
    /// Empty the own mailbox of a disk.
    Clear {
        /// Its place, from 0.
        disk: usize,
    },
    /// Arm the watchdog. Last of all: from here on an end of this program ends the node.
    Arm,
    /// Keep the watchdog quiet.
    Pet,
    /// Take the watchdog away in an orderly way.
    Disarm,
    /// End the node at once, or, before `Arm`, do not start.
    End(End),
}

/// Why a node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Told(Mail),
    /// It cannot read enough disks, and its cluster does not say that it is well.
    Alone,
    /// Its watchdog cannot be armed, so nobody may rely on it: it must not run anything.
    NoWatchdog,
    /// It holds a fencing command from before it started: somebody has to look and clear it.
    Unclean(Mail),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Armed,
    Over,
}

/// Decides whether a node may live: reads its mailboxes, keeps its watchdog quiet, or ends it. Sans-IO.
///
/// The watchdog is armed only after enough disks were read and none holds a fencing command. After that it is kept quiet
/// while enough disks were read within the watchdog time, or the cluster said within it that the node is well. Nothing
/// that this program forgets can keep the node alive: the watchdog ends it.
#[derive(Clone, Debug)]
pub struct Keeper {
    config: KeeperConfig,
    state: State,
    next: Instant,
    /// When each disk was read last.
    read: Vec<Option<Instant>>,
    well: Option<Instant>,
    outputs: VecDeque<KeeperOutput>,
}

impl Keeper {
    /// A keeper that reads the disks first.
    #[must_use]
    pub fn new(config: KeeperConfig) -> Self {
        Self {
            config,
            state: State::Starting,
            next: Instant::ZERO,
            read: vec![None; config.disks],
            well: None,
            outputs: VecDeque::new(),
        }
    }

    /// True once the node depends on this keeper.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.state == State::Armed
    }

    fn fresh(&self, now: Instant, at: Option<Instant>) -> bool {
        at.is_some_and(|at| now - at < self.config.watchdog)
    }

    fn may_live(&self, now: Instant) -> bool {
        let ok = self.read.iter().filter(|at| self.fresh(now, **at)).count();
        enough_to_live(ok, self.config.disks) || self.fresh(now, self.well)
    }

    fn end(&mut self, why: End) {
        if self.state != State::Over {
            self.state = State::Over;
            self.outputs.push_back(KeeperOutput::End(why));
        }
    }

    fn on_mail(&mut self, now: Instant, disk: usize, mail: Mail) {
        match mail.command {
            Command::Reset | Command::Off | Command::CrashDump => {
                self.end(if self.state == State::Starting { End::Unclean(mail) } else { End::Told(mail) });
                return;
            }
            Command::Exit => {
                self.outputs.push_back(KeeperOutput::Clear { disk });
                self.stop();
                return;
            }
            Command::Test => self.outputs.push_back(KeeperOutput::Clear { disk }),
            Command::Clear => {}
        }
        if let Some(at) = self.read.get_mut(disk) {
            *at = Some(now);
        }
        self.arm(now);
    }

    /// Arms once enough disks were read; those that have none depend on the cluster from the first good word on.
    fn arm(&mut self, now: Instant) {
        let ok = self.read.iter().filter(|at| self.fresh(now, **at)).count();
        let enough = enough_to_live(ok, self.config.disks);
        let diskless = self.config.disks == 0 && self.fresh(now, self.well);
        if self.state == State::Starting && (enough || diskless) {
            self.state = State::Armed;
            self.outputs.extend([KeeperOutput::Arm, KeeperOutput::Pet]);
        }
    }

    fn stop(&mut self) {
        if self.state == State::Armed {
            self.outputs.push_back(KeeperOutput::Disarm);
        }
        self.state = State::Over;
    }
}

impl Layer for Keeper {
    type Input<'a> = KeeperInput;
    type Output = KeeperOutput;

    fn handle(&mut self, now: Instant, input: KeeperInput) {
        if self.state == State::Over {
            return;
        }
        match input {
            KeeperInput::Read { disk, mail: Some(mail) } if disk < self.config.disks => {
                self.on_mail(now, disk, mail);
            }
            KeeperInput::Read { .. } => {}
            KeeperInput::Cluster { well } => {
                // A word that comes too late calls nobody back: others may count on the silence before it.
                if self.state == State::Armed && !self.may_live(now) {
                    self.end(End::Alone);
                    return;
                }
                self.well = well.map(|at| at.min(now));
                self.arm(now);
            }
            KeeperInput::Stop => self.stop(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Over || now < self.next {
            return;
        }
        self.next = now + self.config.every;
        if self.state == State::Armed {
            if !self.may_live(now) {
                self.end(End::Alone);
                return;
            }
            self.outputs.push_back(KeeperOutput::Pet);
        }
        self.outputs.extend((0..self.config.disks).map(|disk| KeeperOutput::Read { disk }));
    }

    fn poll_output(&mut self) -> Option<KeeperOutput> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (self.state != State::Over).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        keeper: Keeper,
        now: Instant,
        /// What stands in the mailbox of each disk; `None`: it cannot be read.
        disks: Vec<Option<Command>>,
        seen: Vec<KeeperOutput>,
    }

    fn mail(command: Command) -> Mail {
        Mail { command, from: "other".into() }
    }

    impl Bench {
        fn new(disks: &[Option<Command>]) -> Self {
            let (watchdog, every) = (Duration::from_secs(5), Duration::from_secs(1));
            let keeper = Keeper::new(KeeperConfig { disks: disks.len(), watchdog, every });
            Self { keeper, now: Instant::ZERO, disks: disks.to_vec(), seen: vec![] }
        }

        fn drain(&mut self) {
            while let Some(output) = self.keeper.poll_output() {
                match output {
                    KeeperOutput::Read { disk } => {
                        let mail = self.disks[disk].map(mail);
                        self.keeper.handle(self.now, KeeperInput::Read { disk, mail });
                    }
                    KeeperOutput::Clear { disk } => {
                        self.disks[disk] = Some(Command::Clear);
                        self.seen.push(KeeperOutput::Clear { disk });
                    }
                    KeeperOutput::Arm | KeeperOutput::Pet | KeeperOutput::Disarm | KeeperOutput::End(_) => {
                        self.seen.push(output);
                    }
                }
            }
        }

        fn pass(&mut self, seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            while let Some(at) = self.keeper.poll_timeout().filter(|at| *at <= end) {
                self.now = at;
                self.keeper.handle_timeout(at);
                self.drain();
            }
            self.now = end;
        }

        fn end(&self) -> Option<&End> {
            self.seen.iter().find_map(|o| if let KeeperOutput::End(end) = o { Some(end) } else { None })
        }
    }

    #[test]
    fn the_watchdog_is_armed_after_enough_disks_were_read_and_taken_away_in_order() {
        let mut b = Bench::new(&[None, None, Some(Command::Clear)]);
        b.pass(10);
        assert_eq!(b.seen, [], "one of three is not enough");
        b.disks[0] = Some(Command::Clear);
        b.pass(1);
        assert_eq!(b.seen, [KeeperOutput::Arm, KeeperOutput::Pet]);
        b.keeper.handle(b.now, KeeperInput::Stop);
        b.drain();
        assert_eq!(b.seen.last(), Some(&KeeperOutput::Disarm));
        assert_eq!(b.keeper.poll_timeout(), None);
    }

    #[test]
    fn a_node_ends_when_it_is_told_on_any_disk() {
        for command in [Command::Reset, Command::Off, Command::CrashDump] {
            let mut b = Bench::new(&[Some(Command::Clear), Some(Command::Clear)]);
            b.pass(3);
            b.disks[1] = Some(command);
            b.pass(1);
            assert_eq!(b.end(), Some(&End::Told(mail(command))));
            let pets = b.seen.len();
            b.pass(60);
            assert_eq!(b.seen.len(), pets, "and keeps its watchdog quiet no longer");
        }
    }

    #[test]
    fn a_node_without_its_disks_ends_unless_its_cluster_says_that_it_is_well() {
        let mut b = Bench::new(&[Some(Command::Clear)]);
        b.pass(3);
        b.disks[0] = None;
        for _ in 0..30 {
            b.keeper.handle(b.now, KeeperInput::Cluster { well: Some(b.now) });
            b.pass(1);
        }
        assert_eq!(b.end(), None);
        b.keeper.handle(b.now, KeeperInput::Cluster { well: None });
        b.pass(1);
        assert_eq!(b.end(), Some(&End::Alone));
        let mut b = Bench::new(&[Some(Command::Clear)]);
        b.pass(3);
        b.disks[0] = None;
        b.pass(5);
        assert_eq!(b.end(), Some(&End::Alone), "within the watchdog time and one loop");
    }

    #[test]
    fn one_of_two_disks_may_go() {
        let mut b = Bench::new(&[Some(Command::Clear), Some(Command::Clear)]);
        b.pass(2);
        b.disks[0] = None;
        b.pass(60);
        assert_eq!(b.end(), None);
        b.disks[1] = None;
        b.pass(6);
        assert_eq!(b.end(), Some(&End::Alone));
    }

    #[test]
    fn a_command_from_before_the_start_refuses_it_and_a_test_is_cleared() {
        let mut b = Bench::new(&[Some(Command::Reset)]);
        b.pass(3);
        assert_eq!(b.seen, [KeeperOutput::End(End::Unclean(mail(Command::Reset)))]);
        let mut b = Bench::new(&[Some(Command::Test)]);
        b.pass(3);
        assert_eq!(b.seen[..3], [KeeperOutput::Clear { disk: 0 }, KeeperOutput::Arm, KeeperOutput::Pet]);
        b.disks[0] = Some(Command::Exit);
        b.pass(3);
        assert_eq!(b.seen.last(), Some(&KeeperOutput::Disarm));
    }

    #[test]
    fn without_disks_the_cluster_alone_keeps_a_node_alive() {
        let mut b = Bench::new(&[]);
        b.pass(60);
        assert_eq!(b.seen, [], "nothing is armed before the first good word");
        b.keeper.handle(b.now, KeeperInput::Cluster { well: Some(b.now) });
        b.drain();
        assert_eq!(b.seen, [KeeperOutput::Arm, KeeperOutput::Pet]);
        b.pass(6);
        assert_eq!(b.end(), Some(&End::Alone));
    }

    #[test]
    fn a_good_word_counts_from_when_it_was_true_and_one_after_the_time_calls_nobody_back() {
        let armed = || {
            let mut b = Bench::new(&[]);
            b.keeper.handle(b.now, KeeperInput::Cluster { well: Some(b.now) });
            b.pass(4);
            b
        };
        let mut b = armed();
        b.keeper.handle(b.now, KeeperInput::Cluster { well: Some(Instant::ZERO) });
        b.pass(2);
        assert_eq!(b.end(), Some(&End::Alone), "it was on its way for four seconds");
        let mut b = armed();
        b.now = Instant::ZERO + Duration::from_millis(5500);
        b.keeper.handle(b.now, KeeperInput::Cluster { well: Some(b.now) });
        b.drain();
        assert_eq!(b.end(), Some(&End::Alone), "between two looks at the time");
    }
}
