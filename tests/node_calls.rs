//! Nodes call methods of each other, one, many or any, and publish their events for the program they are part of.

use core::time::Duration;
use ocf::{Cluster, Node, NodeBuilder, PendingCall};
use ocf_comm::rpc::{
    Access, Body, CallOptions, Caller, Completion, Dispatcher, Fault, Method, Outcome, Responder, Target,
};
use parking_lot::Mutex;
use pils::topic::{CONNECTIVITY, Delivery, Pattern, TOPICS};
use pils::{NodeInstance, Value};
use std::sync::Arc;
use std::time::Instant;

const SOON: Duration = Duration::from_secs(60);

/// Callers whose answer a test gives, or not.
type Waiting = Arc<Mutex<Vec<Responder>>>;

fn equip(builder: NodeBuilder, waiting: &Waiting) -> NodeBuilder {
    let id = builder.node().raw();
    let waiting = Arc::clone(waiting);
    builder.methods(
        Dispatcher::builder()
            .method(
                Method::new("demo.who").help("Which node runs this, and who asks."),
                move |caller: &Caller, (): ()| {
                    let Caller::Node(asks) = caller else { return Err(Fault::application("not a node")) };
                    Ok((id, asks.node.raw()))
                },
            )
            .method(Method::new("demo.add").access(Access::Use), |_: &Caller, (a, b): (i32, i32)| Ok(a + b))
            .later(Method::new("demo.wait"), move |_: &Caller, (): (), answer: Responder| {
                waiting.lock().push(answer);
            }),
    )
}

fn cluster(waiting: &Waiting) -> Cluster {
    let waiting = Arc::clone(waiting);
    let cluster = Cluster::builder("calls").equip(move |builder| equip(builder, &waiting)).local(3);
    let cluster = cluster.expect("a cluster starts");
    let until = Instant::now() + SOON;
    for node in (0..3).filter_map(|i| cluster.node(i)) {
        while node.view().is_none_or(|view| view.members.len() != 3) {
            assert!(Instant::now() < until, "no view of 3");
            drop(node.next_event(Duration::from_millis(20)));
        }
    }
    cluster
}

fn node(cluster: &Cluster, index: usize) -> Node {
    cluster.node(index).expect("it runs").clone()
}

fn params<const N: usize>(of: [Value; N]) -> Body {
    Body::Value(Value::List(of.into()))
}

fn done(call: &PendingCall) -> Completion {
    call.wait(SOON).expect("the node runs").expect("every call completes")
}

fn call(node: &Node, target: Target, method: &str, body: Body) -> Vec<(NodeInstance, Outcome)> {
    done(&node.call(target, method, body, &CallOptions::default()).expect("it is sent")).results
}

fn value(outcome: &Outcome) -> Value {
    let Outcome::Answered(Body::Value(value)) = outcome else { panic!("no answer: {outcome:?}") };
    value.clone()
}

#[test]
fn a_node_calls_one_many_or_any_of_the_others() {
    let cluster = cluster(&Waiting::default());
    let [a, b, c] = [0, 1, 2].map(|i| node(&cluster, i));
    let one = call(&a, Target::One(b.local()), "demo.add", params([2.into(), 40.into()]));
    assert_eq!((one[0].0, value(&one[0].1)), (b.local(), Value::Int(42)));
    let who = |id: i64, asks: i64| Value::List(vec![id.into(), asks.into()]);
    let many = call(&a, Target::Many(vec![b.local(), c.local()]), "demo.who", Body::default());
    let answers: Vec<Value> = many.iter().map(|(_, outcome)| value(outcome)).collect();
    assert_eq!(answers, [who(2, 1), who(3, 1)], "whoever calls is known by its circuit");
    let any = call(&a, Target::Any(Vec::new()), "demo.who", Body::default());
    assert!([who(2, 1), who(3, 1)].contains(&value(&any[0].1)), "{any:?}");
    // Every node has methods of its own.
    let identity = call(&c, Target::One(a.local()), "node.identity", Body::default());
    assert_eq!(identity[0].1, Outcome::Answered(Body::of(&a.local()).expect("it has a form")));
    let unknown = call(&c, Target::One(a.local()), "demo.nothing", Body::default());
    assert!(matches!(&unknown[0].1, Outcome::Refused(f) if f.code == Fault::METHOD_NOT_FOUND), "{unknown:?}");
    let wrong = call(&c, Target::One(a.local()), "demo.add", params(["two".into(), 1.into()]));
    assert!(matches!(&wrong[0].1, Outcome::Refused(f) if f.code == Fault::INVALID_PARAMS), "{wrong:?}");
}

#[test]
fn a_call_ends_by_its_answer_its_deadline_its_caller_or_the_death_of_a_node() {
    let waiting = Waiting::default();
    let cluster = cluster(&waiting);
    let [a, b] = [0, 1].map(|i| node(&cluster, i));
    let make = |deadline| {
        let options = CallOptions { deadline, ..CallOptions::default() };
        let made =
            a.call(Target::One(b.local()), "demo.wait", Body::default(), &options).expect("it is sent");
        let until = Instant::now() + SOON;
        while waiting.lock().is_empty() {
            assert!(Instant::now() < until, "it is never run");
            std::thread::sleep(Duration::from_millis(1));
        }
        (made, waiting.lock().remove(0))
    };
    let (late, answer) = make(SOON);
    answer.answer(Ok(7.into()));
    assert_eq!(done(&late).results, [(b.local(), Outcome::Answered(Body::Value(7.into())))]);
    let (short, _kept) = make(Duration::from_millis(50));
    assert_eq!(done(&short).results, [(b.local(), Outcome::TimedOut)]);
    let (cancelled, _kept) = make(SOON);
    assert!(cancelled.cancel() && !cancelled.cancel());
    assert_eq!(done(&cancelled).results, [(b.local(), Outcome::Cancelled)]);
    let (lost, _kept) = make(SOON);
    b.kill();
    assert!(matches!(done(&lost).results[..], [(_, Outcome::NodeLost(_))]));
}

#[test]
fn a_node_publishes_its_topics_to_its_own_program_without_an_interface() {
    let cluster = cluster(&Waiting::default());
    let [a, b] = [0, 1].map(|i| node(&cluster, i));
    assert!(TOPICS.iter().all(|topic| a.bus().topics().iter().any(|there| &**there == *topic)));
    let heard = a.bus().subscribe(Pattern::exact(CONNECTIVITY), 64).expect("there is room");
    b.leave();
    let until = Instant::now() + SOON;
    loop {
        assert!(Instant::now() < until, "it is never told that a node left");
        if let Some(Delivery::Event(event)) = heard.try_next() {
            assert_eq!(event.properties.get("kind"), Some(&"down".into()));
            assert_eq!(event.properties.get("reason"), Some(&"left".into()));
            return;
        }
        drop(a.next_event(Duration::from_millis(20)));
    }
}

#[test]
fn a_method_of_the_nodes_own_name_is_a_mistake_that_is_found_at_the_start() {
    let clash = |builder: NodeBuilder| {
        builder.methods(Dispatcher::builder().method(Method::new("node.status"), |_: &Caller, (): ()| Ok(())))
    };
    let started = std::panic::catch_unwind(|| Cluster::builder("clash").equip(clash).local(1).map(drop));
    assert!(started.is_err());
}
