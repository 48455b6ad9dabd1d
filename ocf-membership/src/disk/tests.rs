use super::*;
use crate::ViewNumber;
use pils::{Incarnation, NodeId, NodeInstance};
use std::collections::BTreeMap;

fn ballot(n: usize, round: u64) -> Ballot {
    let node = NodeId::new(u32::try_from(n + 1).expect("few"));
    Ballot { round, proposer: NodeInstance::new(node, Incarnation::new(7)) }
}

fn claim(n: usize, round: u64, known: u64) -> Claim {
    Claim {
        ballot: ballot(n, round),
        number: ViewNumber(known + 1),
        known: ViewNumber(known),
        nodes: vec![ballot(n, 0).proposer.node],
        absent: Vec::new(),
        hosts: 0,
    }
}

/// Blocks, and the races of nodes that read and write them one block at a time.
struct Disk {
    blocks: Vec<Bytes>,
}

impl Disk {
    fn new(slots: usize) -> Self {
        Self { blocks: vec![Bytes::from(vec![0; DISK_BLOCK]); slots] }
    }
}

struct Process {
    slot: usize,
    race: DiskRace,
    todo: DiskOutput,
    /// Blocks read so far: each at its own time.
    read: Vec<Bytes>,
}

impl Process {
    fn new(slot: usize, mut race: DiskRace) -> Self {
        let todo = race.start();
        Self { slot, race, todo, read: Vec::new() }
    }

    fn step(&mut self, disk: &mut Disk) -> Option<Verdict> {
        self.todo = match &self.todo {
            DiskOutput::Read if self.read.len() < disk.blocks.len() => {
                self.read.push(disk.blocks[self.read.len()].clone());
                return None;
            }
            DiskOutput::Read => {
                let blocks = core::mem::take(&mut self.read);
                self.race.read(&blocks.iter().map(|b| &b[..]).collect::<Vec<_>>())
            }
            DiskOutput::Write(block) => {
                disk.blocks[self.slot] = block.clone();
                self.race.written()
            }
            DiskOutput::Wait(_) => self.race.waited(),
            DiskOutput::Finished(verdict) => return Some(*verdict),
        };
        None
    }
}

fn finish(disk: &mut Disk, slot: usize, race: DiskRace) -> Verdict {
    let mut process = Process::new(slot, race);
    loop {
        if let Some(verdict) = process.step(disk) {
            return verdict;
        }
    }
}

const GRANTED: Verdict = Verdict::Granted(Evidence::TieBreaker);

#[test]
fn one_after_the_other_the_blocks_are_a_register() {
    let mut disk = Disk::new(2);
    let rng = || Rng::new(1);
    assert_eq!(finish(&mut disk, 0, DiskRace::claim(0, 2, claim(0, 1, 3), rng())), Verdict::Refused, "empty");
    let all = Grant { number: ViewNumber(3), nodes: vec![NodeId::new(1), NodeId::new(2)] };
    assert_eq!(finish(&mut disk, 1, DiskRace::note(1, 2, all.clone(), ballot(1, 1), rng())), GRANTED);
    assert_eq!(
        finish(&mut disk, 0, DiskRace::note(0, 2, all, ballot(0, 1), rng())),
        Verdict::Refused,
        "known"
    );
    assert_eq!(finish(&mut disk, 0, DiskRace::claim(0, 2, claim(0, 2, 3), rng())), GRANTED);
    assert_eq!(finish(&mut disk, 1, DiskRace::claim(1, 2, claim(1, 2, 3), rng())), Verdict::Refused);
    assert_eq!(finish(&mut disk, 0, DiskRace::claim(0, 2, claim(0, 3, 4), rng())), GRANTED, "and goes on");
}

#[test]
fn of_nodes_that_race_at_most_one_wins_whatever_the_order_of_reads_and_writes_and_whoever_dies() {
    let (mut won, mut died, mut nobody) = (BTreeMap::<usize, u32>::new(), 0, 0);
    for seed in 0..3_000 {
        let mut rng = Rng::new(seed);
        let slots = 2 + usize::try_from(rng.below(2)).expect("few");
        let mut disk = Disk::new(slots);
        let all = (1..=slots).map(|n| NodeId::new(u32::try_from(n).expect("few"))).collect();
        let told = Grant { number: ViewNumber(3), nodes: all };
        assert_eq!(finish(&mut disk, 0, DiskRace::note(0, slots, told, ballot(0, 1), Rng::new(1))), GRANTED);
        let mut granted = Vec::new();
        let mut round = 2;
        let race =
            |n, round, seed| Process::new(n, DiskRace::claim(n, slots, claim(n, round, 3), Rng::new(seed)));
        let mut running: Vec<Option<Process>> = (0..slots).map(|n| Some(race(n, round, seed))).collect();
        while running.iter().any(Option::is_some) {
            let n = usize::try_from(rng.below(slots as u64)).expect("few");
            let Some(process) = &mut running[n] else { continue };
            if let Some(verdict) = process.step(&mut disk) {
                if verdict == GRANTED {
                    granted.push(n);
                }
                running[n] = None;
            } else if rng.chance(0.02) {
                // It dies in the middle; half of the time its next life asks again, in a later ballot.
                died += 1;
                round += 1;
                running[n] = rng.chance(0.5).then(|| race(n, round, seed));
            }
        }
        granted.dedup();
        assert!(granted.len() <= 1, "seed {seed}: {granted:?} were all granted view 4");
        match granted.first() {
            Some(n) => *won.entry(*n).or_default() += 1,
            None => nobody += 1,
        }
    }
    assert!(won.len() == 3 && died > 0 && nobody > 0, "each wins somewhere: {won:?} {died} {nobody}");
}

#[test]
fn a_damaged_block_is_not_an_empty_one() {
    let mut disk = Disk::new(2);
    let all = Grant { number: ViewNumber(3), nodes: vec![NodeId::new(1), NodeId::new(2)] };
    assert_eq!(finish(&mut disk, 1, DiskRace::note(1, 2, all, ballot(1, 1), Rng::new(1))), GRANTED);
    for at in [0, 9, 40] {
        let mut bad = disk.blocks[1].to_vec();
        bad[at] ^= 4;
        let mut damaged = Disk { blocks: vec![disk.blocks[0].clone(), bad.into()] };
        let race = DiskRace::claim(0, 2, claim(0, 2, 3), Rng::new(1));
        assert_eq!(finish(&mut damaged, 0, race), Verdict::Unavailable, "byte {at}");
    }
}

#[test]
fn of_two_that_begin_at_once_one_wins() {
    let mut disk = Disk::new(2);
    let all = Grant { number: ViewNumber(3), nodes: vec![NodeId::new(1), NodeId::new(2)] };
    assert_eq!(finish(&mut disk, 1, DiskRace::note(1, 2, all, ballot(1, 1), Rng::new(1))), GRANTED);
    let mut one = Process::new(0, DiskRace::claim(0, 2, claim(0, 2, 3), Rng::new(1)));
    let mut other = Process::new(1, DiskRace::claim(1, 2, claim(1, 2, 3), Rng::new(1)));
    // Both read, both promise; then one runs to its end, then the other.
    for _ in 0..4 {
        assert_eq!((one.step(&mut disk), other.step(&mut disk)), (None, None));
    }
    let run = |p: &mut Process, disk: &mut Disk| (0..500).find_map(|_| p.step(disk)).expect("it ends");
    let verdicts = [run(&mut one, &mut disk), run(&mut other, &mut disk)];
    assert_eq!(verdicts.iter().filter(|v| **v == GRANTED).count(), 1, "{verdicts:?}");
}
