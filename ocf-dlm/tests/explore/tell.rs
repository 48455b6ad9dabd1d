//! What happens, in words: nodes are A, B, C; in their next life A', B', C'.

use crate::model::{Act, NODES, Plan, State, instance};
use ocf_dlm::wire::{Answer, Item, Message};

fn name(x: u8) -> String {
    let node = char::from(b'A' + x % NODES);
    if x < NODES { node.to_string() } else { format!("{node}'") }
}

fn name_of(x: pils::NodeInstance) -> String {
    let all = 0..u8::MAX;
    all.take(16).find(|n| instance(*n) == x).map_or_else(|| x.to_string(), name)
}

fn names(all: &[pils::NodeInstance]) -> String {
    let all: Vec<String> = all.iter().map(|x| name_of(*x)).collect();
    format!("[{}]", all.join(" "))
}

/// What happens, in words.
pub(crate) fn say(plan: &Plan, state: &State, act: Act) -> String {
    match act {
        Act::Deliver(from, to) => {
            let message = state.next_message(from, to).map(Message::parse);
            let items = match message {
                Some(Ok(message)) => {
                    let items: Vec<String> = message.items.iter().map(say_item).collect();
                    format!("(view {}) {}", message.epoch, items.join(", "))
                }
                Some(Err(_)) | None => "nothing".into(),
            };
            format!("{} -> {}: {items}", name(from), name(to))
        }
        Act::Turn(x) => format!("{} goes on with what is left to be done", name(x)),
        Act::Timer(x) => format!("a timer of {} fires", name(x)),
        Act::Step(client) => {
            let script = &plan.scripts[usize::from(client)];
            let step = state.next_step(plan, client);
            format!("client {client} on {}: {step:?}", name(script.node + NODES * script.life))
        }
        Act::Crash(x) => format!("{} dies, and the others agree on a view without it", name(x)),
        Act::Cut(x) => {
            format!("{} is cut off and told so, and the others agree on a view without it", name(x))
        }
        Act::Start(x) => format!("{} starts, and all agree on a view with it", name(x)),
        Act::Rejoin(x) => format!("{} comes back, and all agree on a view with it", name(x)),
        Act::View(x) | Act::Skip(x) => {
            let view = state.next_view(x, matches!(act, Act::Skip(_)));
            let members: Vec<_> = view.members.iter().map(|member| member.instance).collect();
            format!("{} is told of view {} of {}", name(x), view.number, names(&members))
        }
        Act::Prove(x, to) => format!("{} is told that {} acts no more", name(to), name(x)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not told of here is told as it is")]
fn say_item(item: &Item) -> String {
    match item {
        Item::Lookup(r) => format!("LOOKUP lock {} in {}", r.lock, r.mode),
        Item::Forward { origin, request: r } => {
            format!("FORWARD lock {} of {} in {}", r.lock, name_of(*origin), r.mode)
        }
        Item::Request(r) => format!("REQUEST lock {} in {}", r.lock, r.mode),
        Item::Convert(c) => format!("CONVERT lock {} to {}", c.lock, c.mode),
        Item::Unlock(u) => format!("UNLOCK {}", u.lock),
        Item::Cancel { lock, .. } => format!("CANCEL {lock}"),
        Item::Own { suspects, .. } => format!("OWN, suspects {}", names(suspects)),
        Item::Forget { .. } => "FORGET".into(),
        Item::Answer(answer) => match answer {
            Answer::Granted { lock, mode, .. } => format!("GRANTED {lock} in {mode}"),
            Answer::Queued { lock, .. } => format!("QUEUED {lock}"),
            Answer::Refused { lock, why, .. } => format!("REFUSED {lock}: {why:?}"),
            Answer::Blocking { lock, wanted, .. } => format!("BLOCKING {lock}: {wanted} is wanted"),
            Answer::Retry { lock, hint, .. } => format!("RETRY {lock} at {}", name_of(*hint)),
            other => format!("{other:?}"),
        },
        Item::ClaimTree { .. } => "CLAIM-TREE".into(),
        Item::Claim(claim) => {
            let locks =
                claim.locks.iter().map(|l| format!("{} holds {:?} asks {:?}", l.lock, l.held, l.asked));
            format!("CLAIM [{}]", locks.collect::<Vec<_>>().join(", "))
        }
        Item::Handover(h) => {
            format!("HANDOVER slot {} incomplete {} suspects {}", h.slot, h.incomplete, names(&h.suspects))
        }
        Item::Barrier(b) => {
            format!("BARRIER {:?}, unproven {}, proven {}", b.phase, names(&b.unproven), names(&b.proven))
        }
        Item::Move { to, .. } => format!("MOVE to {}", name_of(*to)),
        Item::Moved { ready, .. } => if *ready { "MOVED" } else { "MOVED, not ready" }.into(),
        Item::Take(moved) => {
            let locks = moved.resources.iter().flat_map(|r| &r.locks);
            let locks =
                locks.map(|l| format!("{} of {} holds {:?}", l.lock.lock, name_of(l.node), l.lock.held));
            format!("TAKE [{}]", locks.collect::<Vec<_>>().join(", "))
        }
        Item::Mastering { taken, .. } => if *taken { "MASTERING" } else { "MASTERING not" }.into(),
        Item::Stay { .. } => "STAY".into(),
        Item::Master { .. } => "MASTER".into(),
        Item::Proven { instance, .. } => format!("PROVEN {}", name_of(*instance)),
        other => format!("{other:?}"),
    }
}
