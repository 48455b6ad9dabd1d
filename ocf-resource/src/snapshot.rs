//! The replicated state as bytes, for a joiner.

use crate::FenceCause;
use crate::message::{VERSION, millis, short};
use crate::state::{
    Access, Condition, Failures, Fence, Group, Node, Outdated, Presence, Reach, Said, Spot, State,
};
use crate::wire::{
    self, Parsed, flag, list, option, put_flag, put_list, put_option, put_u64, read_outcome, read_severity,
};
use bytes::Bytes;
use core::time::Duration;
use pils::wire::{Malformed, Reader, Writer};
use std::sync::Arc;

impl State {
    /// The state as bytes: equal states have equal bytes.
    #[must_use]
    pub fn emit(&self) -> Bytes {
        let mut w = vec![VERSION];
        put_u64(&mut w, self.view);
        put_u64(&mut w, self.decisions);
        put_list(&mut w, self.members.iter(), |w, member| w.put_instance(*member));
        put_option(&mut w, self.config.as_ref(), |w, book| wire::put_book(w, book));
        put_list(&mut w, self.standby.iter(), |w, node| w.put_node(*node));
        put_flag(&mut w, self.maintenance);
        put_list(&mut w, self.health.iter(), |w, ((node, attribute), value)| {
            w.put_node(*node);
            w.put_text(attribute);
            w.push(wire::health_code(*value));
        });
        put_list(&mut w, self.nodes.iter(), |w, (instance, node)| {
            w.put_instance(*instance);
            put_node(w, node);
        });
        put_list(&mut w, self.over.iter(), |w, instance| w.put_instance(*instance));
        put_list(&mut w, self.reach.said.iter(), |w, (node, said)| {
            w.put_node(*node);
            bytes::BufMut::put_u32(w, said.hosts);
            put_u64(w, said.serial);
        });
        put_list(&mut w, self.reach.counts.iter(), |w, (node, hosts)| {
            w.put_node(*node);
            bytes::BufMut::put_u32(w, *hosts);
        });
        put_list(&mut w, self.groups.iter(), |w, (name, group)| {
            w.put_text(name);
            put_group(w, group);
        });
        put_list(&mut w, self.overtaken.iter(), |w, ((node, resource), open)| {
            w.put_node(*node);
            w.put_text(resource);
            put_list(w, open.iter(), |w, (listener, decision)| {
                w.put_instance(*listener);
                wire::put_decision(w, *decision);
            });
        });
        w.into()
    }

    /// Reads what [`State::emit`] wrote. Never panics, and allocates no more than a small multiple of the input.
    ///
    /// # Errors
    /// Where and why the bytes are not a state.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut r = Reader::new(bytes);
        wire::version(&mut r)?;
        let state = Self {
            view: r.u64("view")?,
            decisions: r.u64("decisions")?,
            members: list(&mut r, "members", |r| r.instance("member"))?,
            config: option(&mut r, "configuration", wire::read_book)?.map(Arc::new),
            standby: list(&mut r, "standby", |r| r.node("node"))?.into_iter().collect(),
            maintenance: flag(&mut r, "maintenance")?,
            health: list(&mut r, "health", |r| {
                Ok(((r.node("node")?, short(r.text("attribute")?)), wire::health(r)?))
            })?
            .into_iter()
            .collect(),
            nodes: list(&mut r, "nodes", |r| Ok((r.instance("node")?, read_node(r)?)))?.into_iter().collect(),
            over: list(&mut r, "lives that are over", |r| r.instance("instance"))?.into_iter().collect(),
            reach: read_reach(&mut r)?,
            groups: list(&mut r, "groups", |r| Ok((r.text("group")?.into(), read_group(r)?)))?
                .into_iter()
                .collect(),
            overtaken: list(&mut r, "overtaken", |r| {
                let key = (r.node("node")?, r.text("resource")?.into());
                let open = list(r, "listeners", |r| Ok((r.instance("listener")?, wire::decision(r)?)))?;
                Ok((key, open.into_iter().collect()))
            })?
            .into_iter()
            .collect(),
            believe_old: false,
            forget_incoming: false,
            skip_notices: false,
            forget_overtaken: false,
            forget_parameters: false,
            forget_ends: false,
            forget_running: false,
            overwrite: false,
            hurry: false,
        };
        r.finish("state")?;
        Ok(state)
    }
}

fn read_reach(r: &mut Reader<'_>) -> Parsed<Reach> {
    let said =
        |r: &mut Reader<'_>| Ok((r.node("node")?, Said { hosts: r.u32("hosts")?, serial: r.u64("serial")? }));
    Ok(Reach {
        said: list(r, "what was said of hosts", said)?.into_iter().collect(),
        counts: list(r, "hosts", |r| Ok((r.node("node")?, r.u32("hosts")?)))?.into_iter().collect(),
    })
}

fn put_node(w: &mut Vec<u8>, node: &Node) {
    put_flag(w, node.member);
    put_flag(w, node.leaving);
    put_flag(w, node.dead);
    put_access(w, &node.access);
    put_option(w, node.watchdog, |w, watchdog| put_u64(w, millis(watchdog)));
    put_option(w, node.lost.as_ref(), put_cause);
    put_option(w, node.fence.as_ref(), |w, fence| {
        put_cause(w, &fence.cause);
        put_option(w, fence.asker, |w, asker| w.put_instance(asker));
        put_option(w, fence.last.as_ref(), |w, (outcome, detail)| {
            w.push(wire::outcome_code(*outcome));
            w.put_text(detail);
        });
    });
    put_list(w, node.spots.iter(), |w, (name, spot)| {
        w.put_text(name);
        put_flag(w, spot.seen);
        put_flag(w, spot.fresh);
        put_flag(w, spot.promoted);
        put_option(w, spot.pending, |w, (decision, action)| {
            wire::put_decision(w, decision);
            w.push(wire::action_code(action));
        });
        put_list(w, spot.notices.iter(), |w, listener| w.put_instance(*listener));
        put_option(w, spot.peer, |w, peer| w.put_instance(peer));
        put_option(w, spot.promotion, wire::put_promotion);
        put_option(w, spot.outdated.as_ref(), |w, outdated| {
            wire::put_parameters(w, &outdated.runs_with);
            put_option(w, outdated.told.as_ref(), |w, told| wire::put_parameters(w, told));
            put_flag(w, outdated.refused);
        });
        match &spot.presence {
            Presence::Unknown => w.push(0),
            Presence::Stopped => w.push(1),
            Presence::Running(decision) => {
                w.push(2);
                wire::put_decision(w, *decision);
            }
            Presence::Failed(why) => {
                w.push(3);
                w.put_text(why);
            }
            Presence::StopFailed { decision, why, severity } => {
                w.push(4);
                wire::put_decision(w, *decision);
                w.put_text(why);
                w.push(wire::severity_code(*severity));
            }
            Presence::Handed => w.push(5),
            Presence::Incoming => w.push(6),
        }
    });
}

fn read_node(r: &mut Reader<'_>) -> Parsed<Node> {
    Ok(Node {
        member: flag(r, "member")?,
        leaving: flag(r, "leaving")?,
        dead: flag(r, "dead")?,
        access: read_access(r)?,
        watchdog: option(r, "watchdog", |r| Ok(Duration::from_millis(r.u64("watchdog")?)))?,
        lost: option(r, "lost", read_cause)?,
        fence: option(r, "fence", |r| {
            Ok(Fence {
                cause: read_cause(r)?,
                asker: option(r, "asker", |r| r.instance("asker"))?,
                last: option(r, "last", |r| Ok((read_outcome(r)?, short(r.text("detail")?))))?,
            })
        })?,
        spots: list(r, "spots", |r| Ok((r.text("resource")?.into(), read_spot(r)?)))?.into_iter().collect(),
    })
}

fn put_access(w: &mut Vec<u8>, access: &Access) {
    match access {
        Access::Lacks => w.push(0),
        Access::Asked { decision, last } => {
            w.push(1);
            wire::put_decision(w, *decision);
            put_option(w, last.as_ref(), |w, why| w.put_text(why));
        }
        Access::Has => w.push(2),
    }
}

fn read_access(r: &mut Reader<'_>) -> Parsed<Access> {
    let at = r.clone();
    match r.u8("access")? {
        0 => Ok(Access::Lacks),
        1 => Ok(Access::Asked {
            decision: wire::decision(r)?,
            last: option(r, "why", |r| Ok(short(r.text("why")?)))?,
        }),
        2 => Ok(Access::Has),
        _ => Err(at.error("access", Malformed::OutOfRange)),
    }
}

fn read_spot(r: &mut Reader<'_>) -> Parsed<Spot> {
    let seen = flag(r, "seen")?;
    let fresh = flag(r, "fresh")?;
    let promoted = flag(r, "promoted")?;
    let pending = option(r, "pending", |r| {
        let decision = wire::decision(r)?;
        Ok((decision, wire::action(r)?))
    })?;
    let notices = list(r, "notices", |r| r.instance("listener"))?.into_iter().collect();
    let peer = option(r, "peer", |r| r.instance("peer"))?;
    let promotion = option(r, "promotion", wire::promotion)?;
    let outdated = option(r, "outdated", |r| {
        Ok(Box::new(Outdated {
            runs_with: Arc::new(wire::parameters(r)?),
            told: option(r, "told", wire::parameters)?.map(Arc::new),
            refused: flag(r, "refused")?,
        }))
    })?;
    let at = r.clone();
    let presence = match r.u8("presence")? {
        0 => Presence::Unknown,
        1 => Presence::Stopped,
        2 => Presence::Running(wire::decision(r)?),
        3 => Presence::Failed(short(r.text("why")?)),
        4 => Presence::StopFailed {
            decision: wire::decision(r)?,
            why: short(r.text("why")?),
            severity: read_severity(r)?,
        },
        5 => Presence::Handed,
        6 => Presence::Incoming,
        _ => return Err(at.error("presence", Malformed::OutOfRange)),
    };
    Ok(Spot { presence, pending, seen, fresh, promoted, notices, peer, promotion, outdated })
}

fn put_cause(w: &mut Vec<u8>, cause: &FenceCause) {
    match cause {
        FenceCause::Lost { view, why, proof_of_death, resources } => {
            w.push(0);
            put_u64(w, *view);
            w.put_text(why);
            put_flag(w, *proof_of_death);
            put_list(w, resources.iter(), |w, name| w.put_text(name));
        }
        FenceCause::StopFailed { resource, decision, why } => {
            w.push(1);
            w.put_text(resource);
            wire::put_decision(w, *decision);
            w.put_text(why);
        }
    }
}

fn read_cause(r: &mut Reader<'_>) -> Parsed<FenceCause> {
    let at = r.clone();
    match r.u8("cause")? {
        0 => Ok(FenceCause::Lost {
            view: r.u64("view")?,
            why: short(r.text("why")?),
            proof_of_death: flag(r, "proof of death")?,
            resources: list(r, "resources", |r| Ok(r.text("resource")?.into()))?,
        }),
        1 => Ok(FenceCause::StopFailed {
            resource: r.text("resource")?.into(),
            decision: wire::decision(r)?,
            why: short(r.text("why")?),
        }),
        _ => Err(at.error("cause", Malformed::OutOfRange)),
    }
}

fn put_group(w: &mut Vec<u8>, group: &Group) {
    put_flag(w, group.wanted);
    put_flag(w, group.maintenance);
    put_flag(w, group.scored);
    put_option(w, group.pin, |w, node| w.put_node(node));
    put_option(w, group.home, |w, home| w.put_instance(home));
    put_option(w, group.fatal.as_ref(), |w, (resource, why)| {
        w.put_text(resource);
        w.put_text(why);
    });
    put_list(w, group.failures.iter(), |w, (node, failures)| {
        w.put_node(*node);
        bytes::BufMut::put_u32(w, failures.count);
        put_flag(w, failures.hard);
        put_u64(w, failures.serial);
        w.put_text(&failures.why);
    });
    put_list(w, group.unmet.iter(), |w, (condition, why)| {
        w.put_text(&condition.of);
        put_option(w, condition.node, |w, node| w.put_node(node));
        w.put_text(&condition.name);
        w.put_text(why);
    });
}

fn read_group(r: &mut Reader<'_>) -> Parsed<Group> {
    Ok(Group {
        wanted: flag(r, "wanted")?,
        maintenance: flag(r, "maintenance")?,
        scored: flag(r, "scored")?,
        pin: option(r, "pin", |r| r.node("node"))?,
        home: option(r, "home", |r| r.instance("home"))?,
        fatal: option(r, "fatal", |r| Ok((r.text("resource")?.into(), short(r.text("why")?))))?,
        failures: list(r, "failures", |r| {
            let node = r.node("node")?;
            let failures = Failures {
                count: r.u32("count")?,
                hard: flag(r, "hard")?,
                serial: r.u64("serial")?,
                why: short(r.text("why")?),
            };
            Ok((node, failures))
        })?
        .into_iter()
        .collect(),
        unmet: list(r, "conditions", |r| {
            let condition = Condition {
                of: r.text("of")?.into(),
                node: option(r, "node", |r| r.node("node"))?,
                name: short(r.text("condition")?),
            };
            Ok((condition, short(r.text("why")?)))
        })?
        .into_iter()
        .collect(),
    })
}
