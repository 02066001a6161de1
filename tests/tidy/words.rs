//! Rules about words: one spelling for each, nothing left for later, no path of one machine.

use crate::{numbered, report, sources};

/// Words that have one spelling here: (what is not written, what is).
const SYNONYMS: &[(&str, &str)] = &[
    ("client-server", "frontend and backend"),
    ("upstream", "backend"),
    ("downstream", "frontend"),
    ("slave", "replica"),
    ("master node", "primary"),
    ("master server", "primary"),
    ("sharding key", "shard key"),
    ("partition key", "shard key"),
    ("distribution key", "shard key"),
    ("routing key", "shard key"),
    ("shard map", "slot map"),
    ("broadcast table", "reference table"),
    ("global table", "reference table"),
    ("cut-over", "cutover"),
];

/// Marks of unfinished work.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "FIXME", "TODO", "XXX:", "HACK:"];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/work/", "/Users/", "/mnt/"];

#[test]
fn words_have_one_spelling() {
    let mut breaches = Vec::new();
    for source in sources() {
        let is_page = source.path.ends_with(".md");
        if !(is_page || source.path.ends_with(".rs"))
            || ["tests/tidy/words.rs", "docs/style.md"].contains(&&*source.path)
        {
            continue;
        }
        for (number, line) in numbered(&source.text) {
            let prose = if is_page { line } else { line.split_once("//").map_or("", |(_, comment)| comment) };
            let prose = prose.to_lowercase();
            for (wrong, right) in SYNONYMS.iter().filter(|(wrong, _)| prose.contains(wrong)) {
                breaches.push(format!("{}:{number}: “{wrong}” is spelled “{right}” here", source.path));
            }
        }
    }
    report("words (docs/style.md)", &breaches);
}

#[test]
fn nothing_is_left_for_later_and_nothing_names_this_machine() {
    let mut breaches = Vec::new();
    for source in
        sources().iter().filter(|source| source.path != "tests/tidy/words.rs" && source.path != "Cargo.lock")
    {
        let is_page = source.path.ends_with(".md");
        for (number, line) in numbered(&source.text) {
            for mark in UNFINISHED.iter().filter(|mark| !is_page && line.contains(*mark)) {
                breaches.push(format!("{}:{number}: `{mark}`", source.path));
            }
            for path in MACHINE_PATHS.iter().filter(|path| line.contains(*path)) {
                breaches.push(format!("{}:{number}: a path of one machine (`{path}`)", source.path));
            }
        }
    }
    report("left-overs", &breaches);
}
