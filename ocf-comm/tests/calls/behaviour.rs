use super::{Node, cluster};
use core::time::Duration;
use ocf_comm::rpc::{Body, CallError, CallLimits, CallOptions, Fault, Need, Outcome, Output, Target};
use ocf_comm::{DownReason, Lane, MemoryLimits, SendError};
use pils::{Incarnation, Instant, NodeId, NodeInstance, Value};

const NOW: Instant = Instant::ZERO;

fn default_cluster(count: u32) -> (ocf_comm::MemoryHub, Vec<Node>) {
    cluster(count, MemoryLimits::default(), &CallLimits::default())
}

fn call(node: &mut Node, target: Target, options: &CallOptions) -> ocf_comm::rpc::CallId {
    node.calls
        .call(NOW, &mut node.net, (target, "m", Body::default()), options)
        .expect("it holds in this test")
}

fn answer(node: &mut Node, text: &str) {
    node.poll(NOW);
    let (ticket, _) = node.request();
    assert!(node.calls.answer(&mut node.net, ticket, Ok(Body::Value(text.into()))));
}

fn answered(text: &str) -> Outcome {
    Outcome::Answered(Body::Value(text.into()))
}

#[test]
fn a_call_to_many_tells_what_became_of_it_at_each() {
    let (hub, mut nodes) = default_cluster(5);
    let all: Vec<_> = nodes[1..].iter().map(Node::local).collect();
    let stranger = NodeInstance::new(NodeId::new(99), Incarnation::new(1));
    let target: Vec<_> = all.iter().copied().chain([stranger]).collect();
    let options = CallOptions { deadline: Duration::from_secs(2), ..CallOptions::default() };
    let id = call(&mut nodes[0], Target::Many(target), &options);
    answer(&mut nodes[1], "yes");
    nodes[2].poll(NOW);
    let (ticket, method) = nodes[2].request();
    assert_eq!(method, "m");
    let Node { net, calls } = &mut nodes[2];
    calls.answer(net, ticket, Err(Fault::new(7, "no")));
    hub.kill(all[2].node);
    nodes[0].poll(NOW);
    assert_eq!(nodes[0].completions(), [], "the last has not answered");
    let late = Instant::from_millis(2000);
    let Node { net, calls } = &mut nodes[0];
    assert_eq!(calls.poll_timeout(), Some(late));
    calls.handle_timeout(late, net);
    let done = nodes[0].completions();
    let outcomes: Vec<_> = done[0].results.iter().map(|(_, outcome)| outcome.clone()).collect();
    let silent = DownReason::Silent { for_: Duration::from_millis(500) };
    assert_eq!((done.len(), done[0].call), (1, id));
    assert_eq!(
        outcomes,
        [
            answered("yes"),
            Outcome::Refused(Fault::new(7, "no")),
            Outcome::NodeLost(silent),
            Outcome::TimedOut,
            Outcome::NotSent(SendError::UnknownPeer(stranger)),
        ]
    );
    // The answer that comes now is late: dropped and counted.
    answer(&mut nodes[4], "too late");
    nodes[0].poll(late);
    assert_eq!(nodes[0].completions(), []);
    assert_eq!(nodes[0].calls.stats().late_answers, 1);
    assert_eq!(nodes[0].calls.load(), (0, 0));
}

#[test]
fn a_call_without_an_answer_is_complete_when_it_is_sent() {
    let (_hub, mut nodes) = default_cluster(3);
    let target: Vec<_> = nodes[1..].iter().map(Node::local).collect();
    let options = CallOptions { need: Need::Nothing, ..CallOptions::default() };
    call(&mut nodes[0], Target::Many(target), &options);
    let done = nodes[0].completions();
    assert!(done[0].results.iter().all(|(_, outcome)| *outcome == Outcome::Sent));
    nodes[1].poll(NOW);
    let got = nodes[1].calls.poll_output();
    assert!(matches!(got, Some(Output::Request { ticket: None, .. })), "{got:?}");
}

#[test]
fn an_optional_answer_that_does_not_come_is_no_failure() {
    let (_hub, mut nodes) = default_cluster(3);
    let target: Vec<_> = nodes[1..].iter().map(Node::local).collect();
    let options = CallOptions { need: Need::Optional, ..CallOptions::default() };
    call(&mut nodes[0], Target::Many(target), &options);
    nodes[1].poll(NOW);
    let (ticket, _) = nodes[1].request();
    let Node { net, calls } = &mut nodes[1];
    assert!(calls.decline(net, ticket));
    assert!(!calls.decline(net, ticket), "a ticket is used once");
    nodes[0].poll(NOW);
    let Node { net, calls } = &mut nodes[0];
    calls.handle_timeout(Instant::from_millis(10_000), net);
    let done = nodes[0].completions();
    assert!(done[0].results.iter().all(|(_, outcome)| *outcome == Outcome::Unanswered), "{done:?}");
}

#[test]
fn enough_answers_complete_a_call_and_cancel_the_rest() {
    let (_hub, mut nodes) = default_cluster(4);
    let target: Vec<_> = nodes[1..].iter().map(Node::local).collect();
    let options = CallOptions { enough: Some(2), ..CallOptions::default() };
    call(&mut nodes[0], Target::Many(target), &options);
    nodes[3].poll(NOW);
    let (ticket, _) = nodes[3].request();
    answer(&mut nodes[1], "a");
    answer(&mut nodes[2], "b");
    nodes[0].poll(NOW);
    let done = nodes[0].completions();
    let outcomes: Vec<_> = done[0].results.iter().map(|(_, outcome)| outcome.clone()).collect();
    assert_eq!(outcomes, [answered("a"), answered("b"), Outcome::Cancelled]);
    nodes[3].poll(NOW);
    assert_eq!(nodes[3].calls.poll_output(), Some(Output::Abandoned(ticket)), "it need not go on");
    let Node { net, calls } = &mut nodes[3];
    assert!(!calls.answer(net, ticket, Ok(Body::default())));
}

#[test]
fn a_cancelled_call_completes_as_such_and_once() {
    let (_hub, mut nodes) = default_cluster(2);
    let b = nodes[1].local();
    let id = call(&mut nodes[0], Target::One(b), &CallOptions::default());
    let Node { net, calls } = &mut nodes[0];
    assert!(calls.cancel(net, id));
    assert!(!calls.cancel(net, id));
    assert_eq!(nodes[0].completions()[0].results, [(b, Outcome::Cancelled)]);
    nodes[1].poll(NOW);
    nodes[1].request();
    assert!(matches!(nodes[1].calls.poll_output(), Some(Output::Abandoned(_))));
}

#[test]
fn a_call_to_any_goes_to_one_that_lives_and_is_repeated_only_if_that_is_allowed() {
    for repeatable in [false, true] {
        let (hub, mut nodes) = default_cluster(4);
        hub.kill(NodeId::new(2));
        nodes[0].poll(NOW);
        let options = CallOptions { repeatable, ..CallOptions::default() };
        let dead = nodes[1].local();
        let target: Vec<_> = nodes[1..].iter().map(Node::local).collect();
        call(&mut nodes[0], Target::Any(target), &options);
        let asked = (2..4).find(|i| {
            nodes[*i].poll(NOW);
            nodes[*i].calls.load().1 == 1
        });
        let asked = asked.expect("one of the living was asked");
        hub.kill(nodes[asked].local().node);
        nodes[0].poll(NOW);
        if repeatable {
            let other = 5 - asked;
            answer(&mut nodes[other], "here");
            nodes[0].poll(NOW);
            let expected = (nodes[other].local(), answered("here"));
            assert_eq!(nodes[0].completions()[0].results, [expected]);
        } else {
            let done = nodes[0].completions();
            assert!(
                matches!(done[0].results[..], [(node, Outcome::NodeLost(_))] if node != dead),
                "{done:?}"
            );
        }
        assert_eq!(nodes[0].calls.load(), (0, 0));
    }
}

#[test]
fn too_many_requests_of_one_node_are_refused_as_busy() {
    let limits = CallLimits { running_max: 2, outstanding_max: 4, ..CallLimits::default() };
    let (_hub, mut nodes) = cluster(3, MemoryLimits::default(), &limits);
    let (a, b) = (nodes[0].local(), nodes[1].local());
    for _ in 0..4 {
        call(&mut nodes[0], Target::One(b), &CallOptions::default());
    }
    let Node { net, calls } = &mut nodes[0];
    let more = calls.call(NOW, net, (Target::One(b), "m", Body::default()), &CallOptions::default());
    assert_eq!(more, Err(CallError::TooMany(4)));
    nodes[1].poll(NOW);
    nodes[0].poll(NOW);
    let busy = nodes[0].completions();
    assert_eq!(busy.len(), 2);
    assert!(busy.iter().all(|c| matches!(&c.results[0].1, Outcome::Refused(f) if f.code == Fault::BUSY)));
    // Another node is not refused for it.
    call(&mut nodes[2], Target::One(b), &CallOptions::default());
    for _ in 0..3 {
        answer(&mut nodes[1], "done");
    }
    nodes[2].poll(NOW);
    nodes[0].poll(NOW);
    assert_eq!(nodes[2].completions()[0].results[0].1, answered("done"));
    assert_eq!(nodes[0].completions().len(), 2);
    assert_eq!(a, nodes[0].local());
}

#[test]
fn an_answer_waits_for_room_and_for_a_caller_that_is_silent() {
    let memory = MemoryLimits { send_queue: 4096, receive_window: 4096, ..MemoryLimits::default() };
    let (hub, mut nodes) = cluster(2, memory, &CallLimits::default());
    let (a, b) = (nodes[0].local(), nodes[1].local());
    let options =
        CallOptions { deadline: Duration::from_secs(60), lane: Lane::Bulk, ..CallOptions::default() };
    for _ in 0..8 {
        call(&mut nodes[0], Target::One(b), &options);
    }
    nodes[1].poll(NOW);
    let big = Value::Text("x".repeat(3000));
    for _ in 0..8 {
        let (ticket, _) = nodes[1].request();
        let Node { net, calls } = &mut nodes[1];
        assert!(calls.answer(net, ticket, Ok(Body::Value(big.clone()))));
    }
    assert!(nodes[1].calls.load().1 > 0, "the caller consumes nothing, so answers wait");
    let mut done = 0;
    for _ in 0..50 {
        nodes[0].poll(NOW);
        done += nodes[0].completions().len();
        nodes[1].poll(NOW);
    }
    assert_eq!((done, nodes[1].calls.load()), (8, (0, 0)), "every answer came");
    // The callee sees the caller as silent, answers meanwhile, and the answer comes when it is heard again.
    call(&mut nodes[0], Target::One(b), &options);
    nodes[1].poll(NOW);
    let (ticket, _) = nodes[1].request();
    hub.cut(a.node, b.node);
    nodes[1].poll(NOW);
    let Node { net, calls } = &mut nodes[1];
    assert!(calls.answer(net, ticket, Ok(Body::default())));
    hub.heal(a.node, b.node);
    nodes[1].poll(NOW);
    nodes[0].poll(NOW);
    let done = nodes[0].completions();
    assert!(
        matches!(done[0].results[0].1, Outcome::NodeLost(_)),
        "for the caller, the node was lost: {done:?}"
    );
    assert_eq!(nodes[0].calls.stats().late_answers, 1);
}

#[test]
fn what_is_too_large_is_refused_at_once_on_either_side() {
    let limits = CallLimits { message_max: 4096, ..CallLimits::default() };
    let (_hub, mut nodes) = cluster(2, MemoryLimits::default(), &limits);
    let b = nodes[1].local();
    let big = || Body::Bytes(vec![0; 5000].into());
    let Node { net, calls } = &mut nodes[0];
    let refused = calls.call(NOW, net, (Target::One(b), "m", big()), &CallOptions::default());
    assert!(matches!(refused, Err(CallError::TooLarge { limit: 4096, .. })), "{refused:?}");
    call(&mut nodes[0], Target::One(b), &CallOptions::default());
    nodes[1].poll(NOW);
    let (ticket, _) = nodes[1].request();
    let Node { net, calls } = &mut nodes[1];
    calls.answer(net, ticket, Ok(big()));
    nodes[0].poll(NOW);
    let done = nodes[0].completions();
    assert!(matches!(&done[0].results[0].1, Outcome::Refused(f) if f.code == Fault::INTERNAL), "{done:?}");
}
