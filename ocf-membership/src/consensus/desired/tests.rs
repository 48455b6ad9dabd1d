//! Who is desired is what a plain look at every pair gives.

use super::super::status::Hold;
use super::*;
use crate::wire::Status;
use crate::{
    Ballot, BlankRecord, ChangeReason, Config, Criterion, Lag, Member, Mesh, NodeVotes, Star, StaticList,
    TwoNode, View, ViewNumber,
};
use core::time::Duration;
use ocf_comm::DownReason;
use pils::{Incarnation, Instant, Rng};
use std::sync::Arc;

/// The definition, link by link.
struct Plain<'a>(&'a Consensus);

impl Plain<'_> {
    fn vertices(&self) -> Vec<NodeInstance> {
        let core = self.0;
        let admitted = |p: &NodeInstance| core.config.criterion.admits(p.node);
        let direct = core.up.iter().copied().filter(|p| core.status_of(*p).is_some_and(|s| s.fit));
        let direct = direct.filter(|p| core.speaks(*p)).chain([core.local]).filter(admitted);
        let mut vertices = sorted(direct.collect());
        let rows = vertices.iter().filter_map(|p| core.statuses.get(p)).flat_map(|s| s.row.iter().copied());
        let seen: Vec<NodeInstance> = rows
            .filter(|p| core.is_peer(p.node) && admitted(p))
            .filter(|p| !core.down.get(p).is_some_and(|reason| reason.is_final()))
            .filter(|p| p.node != core.local.node && core.up.iter().all(|u| u.node != p.node))
            .collect();
        vertices.extend(seen);
        let mut vertices = sorted(vertices);
        vertices.truncate(64);
        vertices
    }

    fn hears(&self, x: NodeInstance, y: NodeInstance) -> bool {
        if x == self.0.local {
            return self.0.up.contains(&y);
        }
        self.0.statuses.get(&x).map_or_else(|| !self.0.up.contains(&x), |s| s.row.contains(&y))
    }

    fn linked(&self, a: NodeInstance, b: NodeInstance) -> bool {
        let must = self.0.config.criterion.must_see(a.node, b.node);
        a.node != b.node && (!must || self.hears(a, b) && self.hears(b, a))
    }

    fn is_missed(&self, p: NodeInstance, vertices: &[NodeInstance]) -> bool {
        let must = |x: NodeInstance| x.node != p.node && self.0.config.criterion.must_see(p.node, x.node);
        vertices.iter().any(|x| must(*x) && self.hears(p, *x) && !self.hears(*x, p))
    }

    /// By trying every subset.
    fn clique(&self, vertices: &[NodeInstance]) -> Vec<NodeInstance> {
        let (number, members) = self.0.newest_primary();
        let is_member = |p: NodeInstance| {
            members.iter().any(|m| m.instance == p)
                && (self.0.status_of(p).is_none() || self.0.active_number(p) == Some(number))
        };
        let senior = members.iter().map(|m| m.instance).find(|p| vertices.contains(p) && is_member(*p));
        let weight = |p: NodeInstance| {
            u128::from(self.0.votes.votes(p.node)) << 60
                | u128::from(is_member(p)) << 40
                | u128::from(!self.is_missed(p, vertices)) << 30
                | u128::from(senior == Some(p)) << 20
                | 1 << 10
        };
        let of =
            |set: u32| vertices.iter().enumerate().filter(move |(i, _)| set >> i & 1 == 1).map(|(_, p)| *p);
        let far = |a: &NodeInstance| {
            let far = vertices.iter().enumerate().filter(|(_, b)| *b != a && !self.linked(*a, **b));
            far.fold(0_u32, |set, (i, _)| set | 1 << i)
        };
        let (far, weights): (Vec<u32>, Vec<u128>) = vertices.iter().map(|p| (far(p), weight(*p))).unzip();
        let parts = |set: u32| (0..vertices.len()).filter(move |i| set >> i & 1 == 1);
        let sets = (0..1_u32 << vertices.len()).filter(|set| parts(*set).all(|i| far[i] & set == 0));
        // Of equally heavy ones that with the lowest vertices: the first bit is the most worth.
        let best = sets.max_by_key(|set| (parts(*set).map(|i| weights[i]).sum::<u128>(), set.reverse_bits()));
        of(best.unwrap_or_default()).collect()
    }

    fn desired(&self) -> Vec<NodeInstance> {
        let core = self.0;
        let all = self.vertices();
        let (number, members) = core.newest_primary();
        let inside = |p: NodeInstance| {
            members.iter().any(|m| m.instance == p) && core.active_number(p) == Some(number)
        };
        let free = |p: &NodeInstance| {
            *p == core.local || !core.is_held(*p) || inside(*p) && !core.is_held_to_stay_out(*p)
        };
        let allowed: Vec<NodeInstance> = all.iter().copied().filter(free).collect();
        let chosen = self.clique(&allowed);
        if allowed.len() == all.len() || core.standing_of(&chosen) == Standing::Quorum {
            return chosen;
        }
        if core.rules.even_split != EvenSplit::Stops {
            let answer = |p: &NodeInstance| !core.is_held_for_no_answer(*p);
            let chosen = self.clique(&all.iter().copied().filter(answer).collect::<Vec<_>>());
            if core.standing_of(&chosen) > Standing::Short {
                return chosen;
            }
        }
        self.clique(&all)
    }
}

/// Some of these have ended, and some are not proposed for a while.
fn hold_some(rng: &mut Rng, core: &mut Consensus, lives: &[NodeInstance]) {
    for instance in lives.iter().copied() {
        if rng.chance(0.1) {
            core.down.insert(instance, DownReason::Left);
        }
        let reasons = [
            ChangeReason::NoAnswer,
            ChangeReason::PartlyConnected,
            ChangeReason::Evicted(Lag { stalled: true, lasted: Duration::from_secs(1), behind: 1 }),
        ];
        if rng.chance(0.15) {
            let why = *rng.pick(&reasons).expect("not empty");
            let (hold, released) = (Duration::from_secs(1), rng.chance(0.2));
            core.held.insert(instance, Hold { why, until: Instant::ZERO + hold, hold, flaps: 1, released });
        }
    }
}

/// A node whose picture of the others is arbitrary, also where no run would lead there.
fn confused(rng: &mut Rng) -> Consensus {
    let two = rng.chance(0.1);
    let count = if two { 2 } else { u32::try_from(rng.between(3, 7)).expect("small") };
    let life = |n: u32, life: u128| NodeInstance::new(NodeId::new(n), Incarnation::new(life));
    let votes = |rng: &mut Rng| if two { 1 } else { u32::try_from(rng.between(1, 2)).expect("small") };
    let nodes: Vec<NodeVotes> = (1..=count).map(|n| NodeVotes::new(NodeId::new(n), votes(rng))).collect();
    let criteria: [Arc<dyn Criterion>; 3] = [
        Arc::new(Mesh),
        Arc::new(Star(NodeId::new(1))),
        Arc::new(StaticList(vec![NodeId::new(1), NodeId::new(2), NodeId::new(4)])),
    ];
    let mut config = Config { blank_record: BlankRecord::Trusted, ..Config::new(nodes) };
    if two {
        config.policy = Arc::new(TwoNode);
    }
    let me = life(u32::try_from(rng.between(1, count.into())).expect("small"), 1);
    let mut core =
        Consensus::new(Instant::ZERO, config, me, None, Rng::new(1)).expect("a good configuration");
    // Some of these leave a list, or a star, without a quorum, which no configuration may: whom it wants is the same.
    if !two {
        let which = if rng.chance(0.6) { 0 } else { usize::from(rng.chance(0.5)) + 1 };
        core.config.criterion = Arc::clone(&criteria[which]);
    }
    let p = if rng.chance(0.3) { 1.0 } else { 0.7 };
    let lives: Vec<NodeInstance> = (1..=count).flat_map(|n| [life(n, 1), life(n, 2)]).collect();
    let row = |rng: &mut Rng| -> Vec<NodeInstance> {
        let of = |n: u32, rng: &mut Rng| rng.chance(p).then(|| life(n, if rng.chance(0.1) { 2 } else { 1 }));
        (1..=count).filter_map(|n| of(n, rng)).collect()
    };
    let primary = ViewNumber(7);
    let active = |rng: &mut Rng| rng.chance(0.6).then(|| ViewNumber(rng.between(6, 7)));
    core.up = row(rng).into_iter().filter(|p| p.node != me.node).collect();
    for peer in core.up.clone() {
        if rng.chance(0.9) {
            let status = Status {
                row: row(rng),
                active: active(rng),
                fit: rng.chance(0.95),
                has_vote: rng.chance(0.9),
                ..Status::default()
            };
            core.statuses.insert(peer, status);
        }
    }
    core.voteless = rng.chance(0.1);
    let members: Vec<Member> = row(rng)
        .into_iter()
        .filter(|_| rng.chance(0.8))
        .map(|instance| Member { instance, joined: ViewNumber(1), votes: 1 })
        .collect();
    if !members.is_empty() {
        let view = View {
            number: primary,
            ballot: Ballot { round: 3, proposer: me },
            members,
            previous: Vec::new(),
            causes: Vec::new(),
            quorum: 1,
            level: 1,
            unproven: Vec::new(),
        };
        core.chosen = Some((view, core.votes.clone()));
    }
    hold_some(rng, &mut core, &lives);
    core
}

#[test]
fn whom_the_bits_give_is_whom_a_look_at_every_pair_and_every_subset_gives() {
    let mut rng = Rng::new(175);
    let mut sizes = [0_u32; 9];
    for round in 0..2_000 {
        let core = confused(&mut rng);
        let desired = core.desired();
        assert_eq!(desired, Plain(&core).desired(), "round {round}: {core:?}");
        sizes[desired.len()] += 1;
    }
    assert!(sizes[..6].iter().all(|n| *n > 0), "sets of every size came up: {sizes:?}");
}

#[test]
fn two_can_be_in_one_view_if_they_are_linked_by_definition() {
    let mut rng = Rng::new(176);
    for round in 0..500 {
        let core = confused(&mut rng);
        let all = core.vertices();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b) {
            assert_eq!(core.are_linked(a, b), Plain(&core).linked(a, b), "round {round}: {a} {b}");
        }
    }
}
