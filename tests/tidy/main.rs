//! House rules that a machine can hold: the module ladder, sizes, documentation that keeps up with the code.
//!
//! Each rule is one test over the files of the source tree and reports every breach at once. A rule about a file
//! that does not exist holds. Exceptions are lists at the top of the files here, each entry with its reason.

mod code;
mod docs;
mod numbers;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the source tree.
struct Source {
    /// Path from the root, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    // Cargo sets the variable when it runs the test; by hand it can name another tree.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&here).join("..")
}

/// Every text file of the source tree, in order, build products left out.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.iter().any(|source| source.path == "Cargo.toml"),
        "the source tree is where it is expected"
    );
    found
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("the source tree is readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let skipped = ["target", "node_modules", "__pycache__", "raw"].contains(&name.as_str())
            || (name.starts_with('.') && name != ".ci" && name != ".gitignore");
        if skipped {
            continue;
        }
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            found.push(Source { path, text });
        }
    }
}

fn rust_sources() -> Vec<Source> {
    sources().into_iter().filter(|source| source.path.ends_with(".rs")).collect()
}

/// Sources of the crates themselves: not tests, neither beside the code nor in `tests/`.
fn product_sources(prefix: &str) -> Vec<Source> {
    let mut found = rust_sources();
    found.retain(|source| source.path.starts_with(prefix) && !is_test(&source.path));
    for source in &mut found {
        if let Some(at) = source.text.find("#[cfg(test)]\nmod tests {") {
            source.text.truncate(at);
        }
    }
    found
}

fn is_test(path: &str) -> bool {
    let marks = ["/tests.rs", "/tests/", "/testing.rs", "/testing/", "_tests.rs"];
    path.starts_with("tests/") || marks.iter().any(|mark| path.contains(mark))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// Fails with every breach, or not at all.
fn report(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// Lines with their 1-based numbers.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The part of a line of Rust that is not a comment.
fn code(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

/// The identifiers that follow each `needle` in `text`.
fn identifiers_after<'a>(text: &'a str, needle: &str) -> Vec<&'a str> {
    text.match_indices(needle)
        .map(|(at, _)| {
            let rest = &text[at + needle.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
        .filter(|name| !name.is_empty())
        .collect()
}
