//! House rules that a machine can hold: the module ladder, sizes, documentation that keeps up with the code.
//!
//! Each rule is one test over the files of the source tree and reports every breach at once. A rule about a file
//! that does not exist holds. Exceptions are lists in this file, each entry with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The ladder of `proxy/src`: a module uses only those of earlier rungs, and of its own.
const LADDER: &[&[&str]] = &[
    &["wire"],
    &["tls", "metrics", "topology", "scram", "md5_password", "secrets_file"],
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

/// Classes of SQLSTATE (first two characters) that a literal must have to be taken for one.
const SQLSTATE_CLASSES: &[&str] = &[
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24",
    "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53",
    "54", "55", "57", "58", "F0", "HV", "P0", "XX",
];

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

fn rung(module: &str) -> Option<usize> {
    LADDER.iter().position(|names| names.contains(&module))
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

/// `section.field` of every setting, from the structs of `router_config::settings`.
fn settings() -> Vec<String> {
    let Some(text) = read("router-config/src/settings.rs") else { return Vec::new() };
    let fields_of = |wanted: &str| -> Vec<(String, String)> {
        let opening = format!("pub struct {wanted} {{");
        let Some((_, body)) = text.split_once(&opening) else { return Vec::new() };
        let body = body.split_once("\n}").map_or(body, |(body, _)| body);
        body.lines()
            .filter_map(|line| line.trim().strip_prefix("pub ")?.trim_end_matches(',').split_once(": "))
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect()
    };
    let mut found = Vec::new();
    for (section, kind) in fields_of("Settings") {
        let kind = kind.trim_start_matches("Vec<").trim_end_matches('>');
        for (field, _) in fields_of(kind) {
            found.push(format!("{section}.{field}"));
        }
    }
    found
}

/// `section.key` of every line of the example file, commented out or not; secrets once.
fn example_keys() -> Vec<String> {
    let Some(text) = read("router-config/src/file/example.toml") else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    let mut section = String::new();
    for line in text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[') {
            section = identifiers_after(name.trim_start_matches('['), "")
                .first()
                .copied()
                .unwrap_or_default()
                .to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            let variant = ["_file", "_env"].iter().find_map(|suffix| key.strip_suffix(suffix));
            let known = variant.is_some_and(|base| found.contains(&format!("{section}.{base}")));
            if !known && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                found.push(format!("{section}.{key}"));
            }
        }
    }
    found
}

/// Headings of the form `### section.field` with the text up to the next heading.
fn documented_settings(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        if line.starts_with('#') {
            open = line.starts_with("### ");
            if open {
                found.push((line[4..].trim_matches('`').to_owned(), String::new()));
            }
        } else if let (true, Some((_, body))) = (open, found.last_mut()) {
            body.push_str(line);
            body.push('\n');
        }
    }
    found.retain(|(name, _)| name.contains('.') && !name.contains(' '));
    found
}

#[test]
fn every_setting_has_a_heading_and_a_default() {
    let mut settings = settings();
    settings.extend(example_keys());
    settings.sort();
    settings.dedup();
    let Some(page) = read("docs/configuration.md") else { return };
    assert!(settings.len() > 30, "the settings are found in settings.rs: {settings:?}");
    let documented = documented_settings(&page);
    let mut breaches: Vec<String> = settings
        .iter()
        .filter(|setting| !documented.iter().any(|(name, _)| name == *setting))
        .map(|setting| format!("`### {setting}` is missing"))
        .collect();
    let sections: BTreeSet<&str> = settings.iter().filter_map(|setting| setting.split('.').next()).collect();
    for (name, body) in &documented {
        let section = name.split('.').next().unwrap_or_default();
        if sections.contains(section) && !settings.contains(name) {
            breaches.push(format!("`{name}` is documented but is not a setting"));
        }
        if !body.trim_end().lines().last().is_some_and(|line| line.starts_with("Default:")) {
            breaches.push(format!("`{name}` does not end with a line `Default: …`"));
        }
    }
    report("docs/configuration.md", &breaches);
}

/// String literals of the registrations in `metrics.rs` that are metric names.
fn registered_metrics() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in product_sources("proxy/src/metrics") {
        for rest in source.text.split("\"gavel_").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            if rest[name.len()..].starts_with('"') {
                found.insert(format!("gavel_{name}"));
            }
        }
    }
    found
}

#[test]
fn metrics_are_documented_and_alerts_name_metrics_that_exist() {
    let registered = registered_metrics();
    if registered.is_empty() {
        return;
    }
    let page = read("docs/operations.md").unwrap_or_default();
    let mut breaches: Vec<String> = registered
        .iter()
        .filter(|name| !page.contains(&format!("`{name}`")))
        .map(|name| format!("docs/operations.md does not define `{name}`"))
        .collect();
    let users = sources().into_iter().filter(|source| {
        source.path == "docs/operations.md"
            || source.path.starts_with("docker/") && !source.path.ends_with(".md")
    });
    for source in users {
        for (number, line) in numbered(&source.text) {
            for name in identifiers_after(line, "gavel_").iter().map(|rest| format!("gavel_{rest}")) {
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
                let known = registered.contains(&name) || base.is_some_and(|base| registered.contains(base));
                if !known && name != "gavel_admin" {
                    breaches.push(format!("{}:{number}: `{name}` is not a metric of the proxy", source.path));
                }
            }
        }
    }
    report("metrics", &breaches);
}

/// Literals of five characters that are SQLSTATEs, with where they stand.
fn sqlstates() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in product_sources("proxy/src/") {
        if source.path.starts_with("proxy/src/metrics") {
            continue; // labels of errors, most of them PostgreSQL's own
        }
        for (number, line) in numbered(&source.text) {
            for literal in code(line).split('"').skip(1).step_by(2) {
                let shape = literal.len() == 5
                    && literal.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
                let digits = literal.bytes().any(|b| b.is_ascii_digit());
                if shape && digits && SQLSTATE_CLASSES.iter().any(|class| literal.starts_with(class)) {
                    found.push((literal.to_owned(), format!("{}:{number}", source.path)));
                }
            }
        }
    }
    found
}

#[test]
fn every_alert_has_an_entry_in_the_runbook() {
    let rules = read("docker/alerts.yml").unwrap_or_default();
    let page = read("docs/operations.md").unwrap_or_default();
    let breaches: Vec<String> = identifiers_after(&rules, "alert: ")
        .into_iter()
        .filter(|alert| !page.lines().any(|line| line == format!("### {alert}")))
        .map(|alert| format!("docs/operations.md: `### {alert}` is missing"))
        .collect();
    report("alerts", &breaches);
}

#[test]
fn every_sqlstate_is_documented() {
    let page = read("docs/sql-support.md").unwrap_or_default();
    let breaches: Vec<String> = sqlstates()
        .into_iter()
        .filter(|(state, _)| !page.contains(&format!("`{state}`")))
        .map(|(state, place)| format!("{place}: `{state}` is not in docs/sql-support.md"))
        .collect();
    report("SQLSTATEs", &breaches);
}

/// What a heading is called in a link, as the usual renderers do it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| {
            if c == ' ' { Some('-') } else { (c.is_alphanumeric() || c == '-' || c == '_').then_some(c) }
        })
        .collect()
}

#[test]
fn links_of_the_docs_lead_somewhere() {
    let mut breaches = Vec::new();
    let pages = sources().into_iter().filter(|source| source.path.ends_with(".md"));
    for page in pages {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        for (number, line) in numbered(&page.text) {
            for rest in line.split("](").skip(1) {
                let link = rest.split(')').next().unwrap_or_default();
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let target =
                    if file.is_empty() { page.path.clone() } else { folder.join(file).display().to_string() };
                let there = root().join(&target);
                let text = fs::read_to_string(&there).unwrap_or_default();
                let known =
                    heading.is_empty() || text.lines().any(|l| l.starts_with('#') && anchor(l) == heading);
                if !there.exists() || !known {
                    breaches.push(format!("{}:{number}: dead link {link}", page.path));
                }
            }
        }
    }
    report("links", &breaches);
}

#[test]
fn words_have_one_spelling() {
    let mut breaches = Vec::new();
    for source in sources() {
        let is_page = source.path.ends_with(".md");
        if !(is_page || source.path.ends_with(".rs"))
            || ["tests/tidy.rs", "docs/style.md"].contains(&&*source.path)
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
        sources().iter().filter(|source| source.path != "tests/tidy.rs" && source.path != "Cargo.lock")
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

#[test]
fn decisions_are_numbered_and_say_context_choice_and_cost() {
    let mut breaches = Vec::new();
    let mut numbers = BTreeSet::new();
    for page in sources().iter().filter(|source| source.path.starts_with("docs/decisions/")) {
        let name = &page.path["docs/decisions/".len()..];
        let number = name.get(..4).unwrap_or_default();
        if !number.bytes().all(|b| b.is_ascii_digit()) || !numbers.insert(number.to_owned()) {
            breaches.push(format!("{}: the name does not begin with a number of its own", page.path));
        }
        for heading in ["## Context", "## Choice", "## Cost"] {
            if !page.text.lines().any(|line| line == heading) {
                breaches.push(format!("{}: `{heading}` is missing", page.path));
            }
        }
    }
    report("decisions", &breaches);
}
