//! Goal: what the house rules say about files, and what the documents say about the code, is so.
//!
//! Method: reads the sources as text; a finding names file and line. The words it looks for are written in two parts here,
//! so that this file need not be left out.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file, tests not counted.
const LINES_MAX: usize = 700;
/// Rows of the list of capabilities.
const CAPABILITIES: usize = 205;
const STATUSES: [&str; 3] = ["works", "partial", "not yet"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project, by its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    /// True for a file that cargo builds by itself: a library, a program, a test, an example, a bench.
    fn is_crate_root(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let parts = match parts.as_slice() {
            [first, rest @ ..] if is_member(first) => rest,
            all => all,
        };
        match parts {
            ["src", name] => matches!(*name, "lib.rs" | "main.rs"),
            ["src", "bin", _] | ["tests" | "examples" | "benches" | "fuzz_targets", _] => true,
            ["tests" | "examples" | "benches", _, name] => *name == "main.rs",
            _ => false,
        }
    }

    /// How many lines come before the tests.
    fn code_lines(&self) -> usize {
        let mut before = "";
        let tests = self.text.lines().position(|line| {
            let found = before == "#[cfg(test)]" && line.starts_with("mod tests {");
            before = line;
            found
        });
        tests.unwrap_or_else(|| self.text.lines().count())
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }
}

/// True for the folder of another crate.
fn is_member(folder: &str) -> bool {
    root().join(folder).join("Cargo.toml").exists()
}

/// Every text file, but for what is built and what is hidden.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if name == "target" || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                found.push(Source { path: path.to_str().unwrap().to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "this test looks at the wrong place: {}", root().display());
    found
}

fn check(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// The text between pairs of backticks, outside blocks of code, with line numbers.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| (at + 1, span)));
        }
    }
    found
}

#[test]
fn every_crate_root_says_what_it_is() {
    let silent = |s: &Source| !s.text.trim_start().starts_with("//!");
    let findings: Vec<String> = sources()
        .iter()
        .filter(|s| s.is_rust() && s.is_crate_root() && silent(s))
        .map(|s| format!("{}: does not begin with //! and what it is for", s.path))
        .collect();
    check(&findings);
}

#[test]
fn no_source_file_is_too_long() {
    let is_test = |s: &Source| s.path.contains("tests/") || s.name() == "tests.rs";
    let findings: Vec<String> = sources()
        .iter()
        .filter(|s| s.is_rust() && !is_test(s))
        .map(|s| (s, s.code_lines()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(s, lines)| format!("{}: {lines} lines, at most {LINES_MAX}", s.path))
        .collect();
    check(&findings);
}

#[test]
fn no_marker_of_unfinished_work_is_left() {
    let markers = [
        concat!("to", "do!"),
        concat!("unimplem", "ented!"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
        concat!("TO", "DO"),
    ];
    let has = |line: &str, marker: &str| {
        line.match_indices(marker).any(|(at, _)| {
            let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            !letter(line[..at].chars().next_back()) && !letter(line[at + marker.len()..].chars().next())
        })
    };
    let mut findings = Vec::new();
    for source in sources() {
        for (at, line) in source.lines() {
            for marker in markers.iter().filter(|m| has(line, m)) {
                findings.push(format!("{}:{at}: {marker}", source.path));
            }
        }
    }
    check(&findings);
}

#[test]
fn every_ignored_test_says_why() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|s| s.is_rust()) {
        for (at, line) in source.lines().map(|(at, line)| (at, line.trim())) {
            if line.starts_with("#[ignore") && !line.starts_with("#[ignore = \"") {
                findings.push(format!("{}:{at}: {line}", source.path));
            }
        }
    }
    check(&findings);
}

#[test]
fn no_path_of_one_machine_is_in_a_file() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut findings = Vec::new();
    for source in sources() {
        for (at, line) in source.lines() {
            if places.iter().any(|place| line.contains(place)) {
                findings.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    check(&findings);
}

/// The numbers `D1`, `D2` .. in a text.
fn deviations(text: &str) -> impl Iterator<Item = &str> {
    let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(move |w| w.strip_prefix('D').is_some_and(is_number))
}

#[test]
fn every_deviation_that_code_cites_is_explained() {
    let sources = sources();
    let mut findings = Vec::new();
    let mut explained: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|s| s.name() == "PROTOCOL.md") {
        let rows = explained.entry(source.path.strip_suffix("PROTOCOL.md").unwrap()).or_default();
        for line in source.text.lines().filter(|l| l.starts_with('|')) {
            for number in deviations(line.split('|').nth(1).unwrap_or_default()) {
                if !rows.insert(number) {
                    findings.push(format!("{}: two rows for {number}", source.path));
                }
            }
        }
    }
    for source in sources.iter().filter(|s| s.is_rust()) {
        let folder = source.path.split_inclusive('/').next().filter(|f| is_member(f)).unwrap_or("");
        for (at, line) in source.lines() {
            let Some((_, cited)) = line.split_once(concat!("Devia", "tion")) else { continue };
            for number in deviations(cited) {
                if !explained.get(folder).is_some_and(|rows| rows.contains(number)) {
                    findings.push(format!("{}:{at}: {folder}PROTOCOL.md has no {number}", source.path));
                }
            }
        }
    }
    check(&findings);
}

/// What is wrong with the name of a file or folder, or of a test in a file, if it does not exist.
fn missing(name: &str) -> Option<String> {
    let (path, item) = name.split_once("::").map_or((name, None), |(path, item)| (path, Some(item)));
    let at = root().join(path);
    if !at.exists() && !at.with_extension("rs").exists() {
        return Some(format!("{path} does not exist"));
    }
    let item = item?;
    let text = fs::read_to_string(&at).unwrap_or_default();
    let known = text.contains(&format!("fn {item}(")) || text.contains(&format!("struct {item} "));
    (!known).then(|| format!("{path} has no {item}"))
}

#[test]
fn every_file_and_test_that_a_document_names_exists() {
    let tops = ["src/", "tests/", "examples/", "benches/", "docs/", ".ci/"];
    let mut findings = Vec::new();
    for source in sources().iter().filter(|s| s.path.ends_with(".md")) {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let of_crate = folder.split('/').next().filter(|f| !f.is_empty() && is_member(f));
        for (at, span) in quoted(&source.text) {
            let in_member =
                span.split_once('/').is_some_and(|(first, _)| !first.is_empty() && is_member(first));
            let is_path = in_member || tops.iter().any(|top| span.starts_with(top));
            if !is_path || span.contains([' ', '*', '<', '{', '…']) {
                continue;
            }
            // In a crate's own document a path may begin at the crate.
            let inside = of_crate.map(|folder| format!("{folder}/{span}"));
            if let Some(why) = missing(span)
                && inside.is_none_or(|inside| missing(&inside).is_some())
            {
                findings.push(format!("{}:{at}: {why}", source.path));
            }
        }
        for (at, line) in source.lines() {
            for link in line.split("](").skip(1) {
                let target = link.split([')', '#']).next().unwrap_or_default();
                let local = !target.is_empty() && !target.contains("://");
                if local && !root().join(folder).join(target).exists() {
                    findings.push(format!("{}:{at}: a link to {target}, which does not exist", source.path));
                }
            }
        }
    }
    check(&findings);
}

/// True for what can only be the name of a test: a sentence in small letters. `..` at its end stands for the rest.
fn is_claim(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
    span.matches('_').count() >= 4 && span.chars().all(plain)
}

#[test]
fn every_claim_that_a_document_cites_is_a_test() {
    let sources = sources();
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.path.ends_with(".md")) {
        let of_crate = source.path.split_inclusive('/').next().filter(|f| is_member(f)).unwrap_or("");
        let code = || sources.iter().filter(|s| s.is_rust() && s.path.starts_with(of_crate));
        for (at, span) in quoted(&source.text).into_iter().filter(|(_, span)| is_claim(span)) {
            let name = span.trim_end_matches('.').trim_end_matches('_');
            let end = if name == span { "(" } else { "_" };
            if !code().any(|s| s.text.contains(&format!("fn {name}{end}"))) {
                findings.push(format!("{}:{at}: no test {span}", source.path));
            }
        }
    }
    check(&findings);
}

#[test]
fn the_list_of_capabilities_is_whole_and_shows_what_it_claims() {
    let text = fs::read_to_string(root().join("docs/capabilities.md")).unwrap();
    let mut findings = Vec::new();
    let mut expected = 1;
    let mut counts = [0_usize; STATUSES.len()];
    for line in text.lines().filter(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<usize>() else { continue };
        let [_, of_crate, capability, status, shown] = cells[..] else {
            findings.push(format!("row {number}: not five columns"));
            continue;
        };
        if number != expected {
            findings.push(format!("row {number}: expected {expected}"));
        }
        expected = number + 1;
        if of_crate.is_empty() || capability.is_empty() || shown.is_empty() {
            findings.push(format!("row {number}: a column is empty"));
        }
        match STATUSES.iter().position(|s| *s == status) {
            Some(which) => counts[which] += 1,
            None => findings.push(format!("row {number}: status {status:?} is none of {STATUSES:?}")),
        }
        // That a test or example exists, another test sees to.
        let shows = quoted(shown).iter().any(|(_, span)| span.contains("::") || root().join(span).is_file());
        let shows = shows || shown.contains("examples/");
        if status == "works" && !shows {
            findings.push(format!("row {number}: works, but no test or example shows it"));
        }
    }
    if expected != CAPABILITIES + 1 {
        findings.push(format!("{} rows, not {CAPABILITIES}", expected - 1));
    }
    for (status, count) in STATUSES.iter().zip(counts) {
        if !text.contains(&format!("| {status} | {count} |")) {
            findings.push(format!("the summary does not say that {count} rows are {status:?}"));
        }
    }
    check(&findings);
}

/// A document quotes what a person sees in the first column of its tables, or what the simulator calls things.
#[test]
fn every_message_that_a_document_quotes_is_in_the_code() {
    let sources = sources();
    let code: Vec<&Source> =
        sources.iter().filter(|s| s.is_rust() && !s.path.starts_with("tests/")).collect();
    let said = |words: &str| code.iter().any(|s| s.text.contains(words));
    let mut findings = Vec::new();
    for source in sources.iter().filter(|s| s.path == "docs/troubleshooting.md") {
        for (at, line) in source.lines().filter(|(_, l)| l.starts_with("| ")) {
            let seen = line.split('|').nth(1).unwrap_or_default();
            for (_, words) in quoted(seen) {
                // The names of some counters are put together: `comm.dropped.BadMac`.
                if !said(words) && !words.strip_prefix("comm.dropped.").is_some_and(said) {
                    findings.push(format!("{}:{at}: nothing says {words:?}", source.path));
                }
            }
        }
    }
    for source in sources.iter().filter(|s| s.path == "docs/failure-modes.md") {
        for (at, line) in source.lines().filter(|(_, l)| l.starts_with("| ")) {
            let covered = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            let faults = quoted(covered).into_iter().map(|(_, span)| span).filter(|span| !span.contains('/'));
            let cases = covered.split('"').skip(1).step_by(2);
            for name in faults.map(|f| format!("Self::{f},")).chain(cases.map(|c| format!("\"{c}\""))) {
                if !said(&name) {
                    findings.push(format!("{}:{at}: the simulator has no {name}", source.path));
                }
            }
        }
    }
    check(&findings);
}

/// The public fields of `pub struct <name> {` in a source file.
fn fields<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (_, body) = text.split_once(&format!("pub struct {name} {{\n"))?;
    let body = body.split("\n}").next()?;
    Some(body.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split(':').next()).collect())
}

#[test]
fn every_field_of_a_configuration_is_among_the_limits() {
    let text = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let mut findings = Vec::new();
    let mut sections = 0;
    // A section's heading names the struct and its place, such as `src/config.rs::NodeConfig`.
    for section in text.split("\n## ").skip(1) {
        let heading = section.lines().next().unwrap_or_default();
        let Some((_, place)) = quoted(heading).pop().filter(|(_, s)| s.contains("::")) else { continue };
        sections += 1;
        let (path, name) = place.split_once("::").unwrap();
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        let Some(fields) = fields(&source, name) else {
            findings.push(format!("docs/limits.md: no struct {place}"));
            continue;
        };
        let rows = section.lines().filter(|l| l.starts_with("| `"));
        let listed: BTreeSet<&str> = rows.filter_map(|l| l.split('`').nth(1)).collect();
        for field in fields.iter().filter(|f| !listed.contains(*f)) {
            findings.push(format!("docs/limits.md: {place} has a field {field} that is not listed"));
        }
        let is_constant = |n: &str| n.contains(|c: char| c.is_ascii_uppercase());
        for listed in listed.iter().filter(|n| !is_constant(n) && !fields.contains(*n)) {
            findings.push(format!("docs/limits.md: {place} has no field {listed}"));
        }
    }
    if sections < 8 {
        findings.push(format!("docs/limits.md: only {sections} configurations"));
    }
    check(&findings);
}
