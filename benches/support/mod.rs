//! What the benches share: figures with their verdicts, the machine, and the reference programs they are held against.
//!
//! A bench measures its own and the reference figures in turns ([`interleave`]), takes medians, adds [`Figure`]s to a
//! [`Report`] and prints it: a table, or with `--json` one object per line. `--quick` cuts rounds and durations for CI.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]
// Each bench uses a part of this module.
#![allow(dead_code, reason = "each bench uses a part of this module")]
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

pub mod circuit;
pub mod corosync;
pub mod etcd;
pub mod group_nodes;
#[path = "../../tests/lab/corosync.rs"]
pub mod lab;
pub mod lock_nodes;
pub mod machine;
pub mod plot;
pub mod reference;

use std::collections::BTreeMap;
use std::time::Duration;

/// How a bench was called.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Measure only what has this name: `--only NAME`.
    pub only: Option<&'static str>,
    /// One JSON object per figure instead of a table.
    pub json: bool,
    /// Few rounds and short durations.
    pub quick: bool,
    /// Interleaved repeats of each measurement, unless quick.
    pub full_rounds: usize,
}

impl Options {
    /// From the command line; words that it does not know (cargo adds `--bench`) are left alone.
    pub fn from_args() -> Self {
        let mut options = Self { only: None, json: false, quick: false, full_rounds: 7 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => options.json = true,
                "--quick" => options.quick = true,
                "--only" => options.only = words.next().map(|name| &*name.leak()),
                _ => {}
            }
        }
        options
    }

    /// True if plots are drawn, which takes a while.
    pub const fn plots(&self) -> bool {
        !self.quick && self.only.is_none()
    }

    /// Interleaved repeats of each measurement.
    pub const fn rounds(&self) -> usize {
        if self.quick { 3 } else { self.full_rounds }
    }

    /// `full`, or two fifths of it.
    pub fn time(&self, full: Duration) -> Duration {
        if self.quick { full * 2 / 5 } else { full }
    }

    /// `full`, or a fifth of it.
    pub const fn count(&self, full: usize) -> usize {
        if self.quick { full / 5 } else { full }
    }
}

/// One measurement, repeated.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Sorted samples.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// From durations, in microseconds.
    pub fn micros(values: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(values.into_iter().map(|value| value.as_secs_f64() * 1e6).collect())
    }

    /// The value below which `share` (0 to 1) of the samples lie. Zero if there are none.
    pub fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the number of samples"
        )]
        let index = ((self.0.len().saturating_sub(1)) as f64 * share).round() as usize;
        self.0.get(index).copied().unwrap_or(0.0)
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// Largest by smallest value.
    pub fn spread(&self) -> f64 {
        self.percentile(1.0) / self.percentile(0.0).max(f64::MIN_POSITIVE)
    }
}

/// A measurement: its name, and what gives one value of it.
pub type Measure<'a> = (&'static str, Box<dyn FnMut() -> f64 + 'a>);

/// Takes each measurement once per round, one after the other, so that a disturbance hits all of them alike.
pub fn interleave(options: Options, mut measures: Vec<Measure<'_>>) -> BTreeMap<&'static str, Samples> {
    let mut taken: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let rounds = options.rounds();
    measures.retain(|(name, _)| options.only.is_none_or(|only| only == *name));
    for round in 1..=rounds {
        for (name, measure) in &mut measures {
            let value = measure();
            eprintln!("round {round} of {rounds}: {name} {value:.1}");
            taken.entry(name).or_default().push(value);
        }
    }
    taken.into_iter().map(|(name, values)| (name, Samples::new(values))).collect()
}

/// What the ratio of a figure to its reference must be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Goal {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

/// One line of a bench's result.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The goal it belongs to, as `C-1`, with a suffix for a variant.
    pub id: &'static str,
    /// What was measured, in words.
    pub what: &'static str,
    /// The value: a median. Not a number if it could not be measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is held against, and that value in the same unit.
    pub against: Option<(&'static str, f64)>,
    /// What the ratio should be.
    pub goal: Option<Goal>,
}

/// Id and words of a figure.
pub type Name = (&'static str, &'static str);

/// What a bench found.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    noisy: Option<String>,
}

impl Report {
    /// Adds a figure.
    pub fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a figure of these parts.
    pub fn figure(
        &mut self,
        (id, what): Name,
        (value, unit): (f64, &'static str),
        against: Option<(&'static str, f64)>,
        goal: Option<Goal>,
    ) {
        self.add(Figure { id, what, value, unit, against, goal });
    }

    /// Adds a figure that could not be measured, without a verdict, and says why.
    pub fn missing(&mut self, (id, what): Name, unit: &'static str, goal: Option<Goal>, why: &str) {
        self.figure((id, what), (f64::NAN, unit), None, goal);
        self.note(format!("{id} was not measured: {why}"));
    }

    /// Adds a sentence that the reader of the figures should know.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Judges the machine by a latency that should be the same in each round: more than a factor of two between the
    /// rounds, and no goal gets a verdict.
    pub fn judge_machine(&mut self, reference: &str, samples: &Samples) {
        let spread = samples.spread();
        if spread > 2.0 {
            self.noisy =
                Some(format!("no verdict: {reference} differs by a factor of {spread:.1} between rounds"));
        }
    }

    /// Prints everything.
    pub fn print(&self, options: Options) {
        if options.json {
            for figure in &self.figures {
                println!("{}", self.json(figure));
            }
            for note in self.notes.iter().chain(&self.noisy) {
                eprintln!("{note}");
            }
            return;
        }
        println!(
            "{:<14} {:<52} {:>12} {:<7} {:>24} {:>7} {:>8}",
            "id", "what", "value", "unit", "against", "ratio", "goal"
        );
        for figure in &self.figures {
            let Figure { id, what, value, unit, .. } = figure;
            let against = figure.against.map_or(String::new(), |(name, value)| format!("{name} {value:.1}"));
            let ratio = figure.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let goal = figure.goal.map_or(String::new(), Goal::text);
            let verdict = match self.verdict(figure) {
                Some(true) => "met",
                Some(false) => "missed",
                None if figure.goal.is_some() => "no verdict",
                None => "",
            };
            println!(
                "{id:<14} {what:<52} {value:>12.1} {unit:<7} {against:>24} {ratio:>7} {goal:>8} {verdict}"
            );
        }
        for note in self.notes.iter().chain(&self.noisy) {
            println!("* {note}");
        }
    }

    fn verdict(&self, figure: &Figure) -> Option<bool> {
        let verdict = figure.goal?.holds(figure.ratio()?);
        self.noisy.is_none().then_some(verdict)
    }

    fn json(&self, figure: &Figure) -> serde_json::Value {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        serde_json::json!({
            "id": figure.id,
            "what": figure.what,
            "value": rounded(figure.value),
            "unit": figure.unit,
            "against": figure.against.map(|(name, _)| name),
            "against_value": figure.against.map(|(_, value)| rounded(value)),
            "ratio": figure.ratio().map(rounded),
            "goal": figure.goal.map(Goal::text),
            "pass": self.verdict(figure),
        })
    }
}

impl Figure {
    fn ratio(&self) -> Option<f64> {
        self.against.map(|(_, reference)| self.value / reference)
    }
}
