//! The truth table of docs/quorum.md: which side of every partition of 2 to 7 nodes goes on under each policy. It is computed
//! from the policies, must be what the document shows (`UPDATE=1` writes it anew), is checked for two sides that go on, and whole
//! clusters in virtual time must do what it says.

use crate::behaviour::with_policy;
use crate::world::{MS, id};
use ocf_membership::{Durability, EvenSplit, NodeVotes, Standing, policy_by_name, standing};
use pils::NodeId;
use std::path::Path;

/// Heading, policy, votes of the first node.
const COLUMNS: [(&str, &str, u32); 7] = [
    ("`majority`", "majority", 1),
    ("`majority`, node 1 has 2 votes", "majority", 2),
    ("`auto-tie-breaker:lowest`", "auto-tie-breaker:lowest", 1),
    ("`majority+tie-breaker`", "majority+tie-breaker", 1),
    ("`two-node`", "two-node", 1),
    ("`unanimous`", "unanimous", 1),
    ("`sites:1,2/3,4/5,6,7`", "sites:1,2/3,4/5,6,7", 1),
];
const BEGIN: &str = "<!-- table: begin -->\n";
const END: &str = "<!-- table: end -->\n";

/// Sides of `nodes` nodes: sizes in falling order, for each way to say in which of them node 1 is (the first of the list).
fn shapes(nodes: usize) -> Vec<Vec<usize>> {
    fn parts(left: usize, most: usize, sizes: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if left == 0 {
            found.push(sizes.clone());
        }
        for size in (1..=left.min(most)).rev() {
            sizes.push(size);
            parts(left - size, size, sizes, found);
            sizes.pop();
        }
    }
    let mut partitions = Vec::new();
    parts(nodes, nodes, &mut Vec::new(), &mut partitions);
    let mut shapes = Vec::new();
    for sizes in partitions {
        let mut distinct = sizes.clone();
        distinct.dedup();
        for first in distinct {
            let at = sizes.iter().position(|s| *s == first).expect("one of them");
            let mut shape = sizes.clone();
            shape.remove(at);
            shape.insert(0, first);
            shapes.push(shape);
        }
    }
    shapes
}

/// The sides themselves: nodes are numbered through.
fn sides(shape: &[usize]) -> Vec<Vec<NodeId>> {
    let mut next = 0;
    let side = |size: &usize| {
        let side = (next..next + size).map(id).collect();
        next += size;
        side
    };
    shape.iter().map(side).collect()
}

fn nodes(n: usize, first: u32) -> Vec<NodeVotes> {
    (0..n).map(|i| NodeVotes::new(id(i), if i == 0 { first } else { 1 })).collect()
}

fn stands(policy: &str, first: u32, shape: &[usize]) -> Vec<Standing> {
    let policy = policy_by_name(policy).expect("a policy");
    let nodes = nodes(shape.iter().sum(), first);
    sides(shape).iter().map(|side| standing(&*policy, &nodes, side)).collect()
}

fn side_name(shape: &[usize], i: usize) -> String {
    format!("{}{}", shape[i], if i == 0 { "*" } else { "" })
}

fn cell(policy: &str, first: u32, shape: &[usize]) -> String {
    let total: usize = shape.iter().sum();
    if policy == "two-node" && total != 2 {
        return "-".to_owned();
    }
    let stands = stands(policy, first, shape);
    let those = |wanted: fn(&Standing) -> bool| -> Vec<String> {
        let sides = (0..shape.len()).filter(|i| wanted(&stands[*i]));
        sides.map(|i| side_name(shape, i)).collect()
    };
    let (on, asks) = (those(|s| *s == Standing::Quorum), those(|s| matches!(s, Standing::Tie(_))));
    let fences = stands.contains(&Standing::Tie(EvenSplit::Fences));
    match (&on[..], &asks[..]) {
        ([one], []) => one.clone(),
        ([], []) => "none".to_owned(),
        ([], one_of) if fences => format!("{}, fences first", one_of.join(" or ")),
        ([], one_of) => format!("{}, asks", one_of.join(" or ")),
        other => panic!("{policy} lets more than one side of {shape:?} go on: {other:?}"),
    }
}

fn table() -> String {
    let mut text = String::from("| nodes | sides |");
    COLUMNS.iter().for_each(|(heading, ..)| text.push_str(&format!(" {heading} |")));
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(COLUMNS.len()));
    text.push('\n');
    for n in 2..=7 {
        for shape in shapes(n) {
            let names: Vec<String> = (0..shape.len()).map(|i| side_name(&shape, i)).collect();
            text.push_str(&format!("| {n} | {} |", names.join(" + ")));
            for (_, policy, first) in COLUMNS {
                text.push_str(&format!(" {} |", cell(policy, first, &shape)));
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_table_in_the_document_is_what_the_policies_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quorum.md");
    let text = std::fs::read_to_string(&path).expect("docs/quorum.md");
    let begin = text.find(BEGIN).expect("the begin of the table") + BEGIN.len();
    let end = text.find(END).expect("the end of the table");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{}{}{}", &text[..begin], table(), &text[end..])).expect("written");
        return;
    }
    assert_eq!(&text[begin..end], table(), "run this test with UPDATE=1");
}

/// Each way to divide `n` nodes into sides, as the side of each node.
fn divisions(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![0]];
    for _ in 1..n {
        let longer = |d: Vec<usize>| {
            let sides = d.iter().max().expect("not empty") + 2;
            (0..sides).map(move |side| [&d[..], &[side]].concat())
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

#[test]
fn no_policy_lets_two_sides_of_any_partition_go_on() {
    let weights: [&[u32]; 4] =
        [&[1; 7], &[2, 1, 1, 1, 1, 1, 1], &[3, 2, 1, 0, 2, 1, 1], &[1, 0, 4, 1, 2, 2, 2]];
    let policies = [
        "majority",
        "majority+tie-breaker",
        "auto-tie-breaker:lowest",
        "auto-tie-breaker:highest",
        "auto-tie-breaker:2",
        "threshold:4",
        "unanimous",
        "sites:1,2/3,4/5,6,7",
        "sites:1,2,3,4/5/6+tie-breaker",
    ];
    let mut ties = 0;
    for (n, weights) in (2..=7).flat_map(|n| weights.iter().map(move |w| (n, w))) {
        let nodes: Vec<NodeVotes> = (0..n).map(|i| NodeVotes::new(id(i), weights[i])).collect();
        for policy in policies.map(|name| policy_by_name(name).expect("a policy")) {
            for division in divisions(n) {
                let side = |k: usize| (0..n).filter(|i| division[*i] == k).map(id).collect::<Vec<NodeId>>();
                let stands: Vec<Standing> = (0..n).map(|k| standing(&*policy, &nodes, &side(k))).collect();
                let on = stands.iter().filter(|s| **s == Standing::Quorum).count();
                let asks = stands.iter().filter(|s| matches!(s, Standing::Tie(_))).count();
                assert!(on <= 1 && asks <= 2 && (on == 0 || asks == 0), "{policy:?} {nodes:?} {division:?}");
                ties += asks;
            }
        }
    }
    assert!(ties > 0, "some splits are even");
}

/// Splits a formed cluster and tells which of its sides act then.
fn acts(policy: &str, first: u32, shape: &[usize]) -> Vec<bool> {
    let n = shape.iter().sum();
    let mut world = with_policy(n, Durability::Durable, policy);
    world.config.nodes[0].votes = first;
    world.run_until(2_500 * MS);
    assert!(world.is_whole(), "{policy}: {}", world.describe());
    let sides = sides(shape);
    for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
        if sides.iter().any(|side| side.contains(&id(i)) && !side.contains(&id(j))) {
            world.cut.insert((i, j));
        }
    }
    world.run_until(world.now + 5_000 * MS);
    assert_eq!(world.checks.violation, None, "{policy} {shape:?}");
    let active = |node: &NodeId| world.nodes[node.raw() as usize - 1].active.is_some();
    let whole = |side: &Vec<NodeId>| {
        let n = side.iter().filter(|node| active(node)).count();
        assert!(n == 0 || n == side.len(), "{policy} {shape:?}: a side is of one mind: {}", world.describe());
        n > 0
    };
    sides.iter().map(whole).collect()
}

fn clusters_do_what_the_table_says(sizes: core::ops::RangeInclusive<usize>) {
    for shape in sizes.flat_map(shapes) {
        for (_, policy, first) in
            COLUMNS.iter().filter(|c| c.1 != "two-node" || shape.iter().sum::<usize>() == 2)
        {
            let (says, acts) = (stands(policy, *first, &shape), acts(policy, *first, &shape));
            let ties = says.iter().filter(|s| matches!(s, Standing::Tie(_))).count();
            let on = acts.iter().filter(|a| **a).count();
            if ties > 0 {
                assert_eq!(on, 1, "{policy} {shape:?}: of two halves exactly one, {acts:?}");
            } else {
                let wanted: Vec<bool> = says.iter().map(|s| *s == Standing::Quorum).collect();
                assert_eq!(acts, wanted, "{policy} {shape:?}");
            }
        }
    }
}

#[test]
fn clusters_of_up_to_five_nodes_do_what_the_table_says() {
    clusters_do_what_the_table_says(2..=5);
}

#[test]
#[ignore = "six and seven nodes: seconds in a release build"]
fn clusters_of_six_and_seven_nodes_do_what_the_table_says() {
    clusters_do_what_the_table_says(6..=7);
}
