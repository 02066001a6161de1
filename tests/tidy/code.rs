//! Rules about the code: the module ladder, sizes, headers, pure modules, foreign crates in one place, dependencies.

use crate::{
    code, identifiers_after, is_test, numbered, product_sources, read, report, rust_sources, sources,
};

/// The ladder of `proxy/src`: a module uses only those of earlier rungs, and of its own.
const LADDER: &[&[&str]] = &[
    &["wire"],
    &["tls", "metrics", "topology", "scram", "md5_password", "secrets_file", "text_file"],
    &["sql"],
    &["route"],
    &["gather"],
    &["admission"],
    &["backend"],
    &["control"],
    &["exec", "frontend", "worker"],
    &["admin"],
    &["http", "cli", "listener", "signals", "run", "lib", "main"],
];

/// Uses that point down the ladder: (module, what it uses, why it is still so). To be emptied.
const LADDER_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("metrics", "control", "labels are made from the outcomes of two-phase commits"),
    ("metrics", "route", "labels are made from the targets of plans"),
];

/// Lines that a file may have.
const FILE_LINES: usize = 500;

/// Modules without I/O, clock, randomness or async.
const PURE: &[&str] = &["proxy/src/sql/", "proxy/src/route/", "proxy/src/gather/"];

/// What a pure module does not name.
const IMPURE: &[&str] = &[
    "async fn",
    "tokio::",
    "std::fs",
    "std::net",
    "std::env",
    "Instant::now",
    "SystemTime",
    "rand::",
    "thread_local!",
];

fn rung(module: &str) -> Option<usize> {
    LADDER.iter().position(|names| names.contains(&module))
}

#[test]
fn modules_of_the_proxy_use_only_earlier_rungs() {
    let mut breaches = Vec::new();
    for source in product_sources("proxy/src/") {
        let inside = &source.path["proxy/src/".len()..];
        let own = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        let Some(own_rung) = rung(own) else {
            breaches.push(format!("{}: module `{own}` has no rung in LADDER", source.path));
            continue;
        };
        for (number, line) in numbered(&source.text) {
            for used in identifiers_after(code(line), "crate::") {
                let excepted = LADDER_EXCEPTIONS.iter().any(|(from, to, _)| *from == own && *to == used);
                let below = rung(used).is_some_and(|rung| rung > own_rung);
                if below && !excepted {
                    let place = format!("{}:{number}", source.path);
                    breaches.push(format!("{place}: `{own}` uses `{used}`, which is not above it"));
                }
            }
        }
    }
    report("the ladder (docs/architecture.md)", &breaches);
}

#[test]
fn files_stay_short() {
    let mut breaches = Vec::new();
    for source in rust_sources().iter().filter(|source| !is_test(&source.path)) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            breaches.push(format!("{}: {lines} lines, {FILE_LINES} are allowed", source.path));
        }
    }
    report("file sizes", &breaches);
}

#[test]
fn every_file_says_what_it_is_for() {
    let missing: Vec<String> = rust_sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| format!("{}: does not begin with //!", source.path))
        .collect();
    report("file headers", &missing);
}

#[test]
fn decisions_are_pure_functions() {
    let mut breaches = Vec::new();
    for source in PURE.iter().flat_map(|folder| product_sources(folder)) {
        for (number, line) in numbered(&source.text) {
            for name in IMPURE.iter().filter(|name| code(line).contains(*name)) {
                breaches.push(format!("{}:{number}: names `{name}`", source.path));
            }
        }
    }
    report("pure modules", &breaches);
}

#[test]
fn only_the_parse_module_names_the_parser() {
    let mut breaches = Vec::new();
    for source in product_sources("proxy/src/") {
        if source.path.starts_with("proxy/src/sql/") {
            continue;
        }
        for (number, line) in numbered(&source.text) {
            if code(line).contains("sqlparser::") {
                breaches.push(format!("{}:{number}: names sqlparser outside of sql/", source.path));
            }
        }
    }
    report("foreign crates in one place", &breaches);
}

#[test]
fn dependencies_have_one_version_and_a_reason() {
    let manifest = read("Cargo.toml").expect("the workspace has a manifest");
    let mut breaches = Vec::new();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    for line in section.lines().skip(1).take_while(|line| !line.starts_with('[')) {
        if line.contains(" = ") && !line.contains("path = ") && !line.contains(" # ") {
            breaches.push(format!("Cargo.toml: no reason beside: {line}"));
        }
    }
    let members = sources()
        .into_iter()
        .filter(|s| s.path.ends_with("/Cargo.toml") && s.text.contains("edition.workspace"));
    for source in members {
        let mut dependencies = false;
        for (number, line) in numbered(&source.text) {
            if line.starts_with('[') {
                dependencies = line.contains("dependencies");
            } else if dependencies
                && line.contains('=')
                && !line.contains("workspace = true")
                && !line.starts_with('#')
            {
                breaches.push(format!("{}:{number}: a version of its own: {line}", source.path));
            }
        }
    }
    report("dependencies", &breaches);
}
