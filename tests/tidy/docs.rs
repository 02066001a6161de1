//! Rules about the documentation: each setting, metric, alert and SQLSTATE is in it, its links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{code, identifiers_after, numbered, product_sources, read, report, root, sources};

/// Classes of SQLSTATE (first two characters) that a literal must have to be taken for one.
const SQLSTATE_CLASSES: &[&str] = &[
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24",
    "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53",
    "54", "55", "57", "58", "F0", "HV", "P0", "XX",
];

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
