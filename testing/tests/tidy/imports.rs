//! Checks the direction of imports. No crate may import a higher crate, and the files of a crate
//! may not import each other in a circle. Only a module and its own children, and the pairs in
//! [`PAIRS`], may import each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{CRATES, Source, sources};

#[test]
fn no_crate_imports_a_higher_crate() {
    let name = |krate: &str| match krate {
        "ctl" => "deployctl::".to_owned(),
        "docker" => "deploy_from_docker::".to_owned(),
        other => format!("deploy_{other}::"),
    };
    let mut upward = Vec::new();
    for source in sources() {
        let own = CRATES.iter().position(|krate| *krate == source.krate).expect("a crate of ours");
        for above in &CRATES[..own] {
            if source.code.contains(&name(above)) {
                upward.push(format!("{} imports {}", source.path, name(above)));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let all = sources();
    let mut circles = Vec::new();
    for krate in CRATES {
        let files: Vec<&Source> = all
            .iter()
            .filter(|source| source.krate == krate && !source.module.is_empty())
            .collect();
        let graph = graph(&files);
        for module in graph.keys() {
            // The test reports a circle only at the file whose name comes first in the alphabet.
            if let Some(path) = way_back(&graph, module)
                && path.iter().all(|other| module <= other)
                && !PAIRS.iter().any(|(of, a, b)| *of == krate && path == [*a, *b])
            {
                circles.push(format!("{krate}: {} -> {module}", path.join(" -> ")));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// The pairs of files that may import each other. Each item has the crate and the two files.
const PAIRS: [(&str, &str, &str); 2] =
    [("store", "digest", "error"), ("store", "disk::dir", "disk::mounts")];

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The imports of each module, without the module's own children and parents.
fn graph(files: &[&Source]) -> Graph {
    let modules: BTreeSet<&str> = files.iter().map(|file| file.module.as_str()).collect();
    let mut graph = Graph::new();
    for file in files {
        let named = graph.entry(file.module.clone()).or_default();
        for path in paths(&file.code, &file.module) {
            let parts: Vec<&str> = path.split("::").collect();
            let longest = (1..=parts.len()).rev().map(|n| parts[..n].join("::"));
            let Some(target) = longest.into_iter().find(|path| modules.contains(path.as_str()))
            else {
                continue;
            };
            if !is_family(&target, &file.module) {
                named.insert(target);
            }
        }
    }
    graph
}

fn is_family(a: &str, b: &str) -> bool {
    a == b || a.starts_with(&format!("{b}::")) || b.starts_with(&format!("{a}::"))
}

/// The paths that a file imports from its own crate, relative to the crate's root module. Groups in
/// braces are split into single paths.
fn paths(code: &str, module: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|sign| sign.is_alphanumeric() || sign == '_' || sign == ':') {
                continue;
            }
            let mut base: Vec<&str> = module.split("::").collect();
            let mut rest = &code[at..];
            if let Some(tail) = rest.strip_prefix("crate::") {
                base.clear();
                rest = tail;
            }
            while let Some(tail) = rest.strip_prefix("super::") {
                base.pop();
                rest = tail;
            }
            for tail in leaves(rest) {
                let path: Vec<&str> = base.iter().copied().chain(tail.split("::")).collect();
                found.push(path.join("::"));
            }
        }
    }
    found
}

/// The single paths of the import at the beginning of `text`. For example, `a::{b, c::d}` gives
/// `a::b` and `a::c::d`.
fn leaves(text: &str) -> Vec<String> {
    let end = text.find(|sign: char| !(sign.is_alphanumeric() || sign == '_' || sign == ':'));
    let (head, rest) = text.split_at(end.unwrap_or(text.len()));
    let Some(group) = rest.strip_prefix('{').filter(|_| head.is_empty() || head.ends_with("::"))
    else {
        return vec![head.trim_end_matches("::").to_owned()];
    };
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for sign in group.chars() {
        match sign {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is one").push(sign);
    }
    let inner = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    inner.flat_map(leaves).map(|leaf| format!("{head}{leaf}")).collect()
}

/// The shortest chain of imports that leads from a module back to the same module.
fn way_back(graph: &Graph, from: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut next = Vec::new();
        for way in ways {
            for target in graph.get(way.last()?).into_iter().flatten() {
                if target == from {
                    return Some(way);
                }
                if seen.insert(target.clone()) {
                    next.push([way.as_slice(), std::slice::from_ref(target)].concat());
                }
            }
        }
        ways = next;
    }
    None
}

#[test]
fn groups_in_braces_are_split() {
    assert_eq!(leaves("a::{b, c::{d, e}};"), ["a::b", "a::c::d", "a::c::e"]);
    assert_eq!(paths("use super::x::Y; let z = crate::q::r();", "m::n"), ["q::r", "m::x::Y"]);
}

#[test]
fn a_circle_is_found() {
    let graph: Graph = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]
        .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
        .into();
    assert_eq!(way_back(&graph, "a").map(|way| way.len()), Some(3));
    assert_eq!(way_back(&graph, "d"), None);
}
