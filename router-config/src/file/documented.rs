//! What `docs/configuration.md` says of numbers and durations is what the checker takes.

use std::collections::BTreeMap;
use std::path::Path;

use super::load;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

/// The text below each heading `### section.key`.
fn documented() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(PAGE).expect("the page is beside the code");
    let parts = page.split("\n### ").skip(1).filter_map(|part| part.split_once('\n'));
    parts
        .filter(|(name, _)| name.contains('.'))
        .map(|(name, text)| (name.to_owned(), text.split("\n## ").next().unwrap_or_default().to_owned()))
        .collect()
}

/// What the checker says against a value of a setting, if anything: the message and the cure.
fn said(setting: &str, value: &str) -> Option<(String, String)> {
    let (section, key) = setting.split_once('.').expect("a section and a key");
    let listed = ["databases", "shards", "tables", "functions", "overrides"].contains(&section);
    let head = if listed { format!("[[{section}]]") } else { format!("[{section}]") };
    let path = if listed { format!("{section}[1].{key}") } else { setting.to_owned() };
    let no_file = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let text = format!("{head}\n{key} = {value}\n");
    let mistakes = load(&text, Path::new("gavel.toml"), &|_| None, &no_file).err()?;
    let mistake = mistakes.into_iter().find(|mistake| mistake.key == path)?;
    Some((mistake.message, mistake.cure))
}

#[test]
fn ranges_are_those_of_the_checker() {
    let mut seen = 0;
    for (setting, text) in documented() {
        let Some((_, cure)) = said(&setting, "-1") else { continue };
        let Some((_, range)) = cure.split_once(" from ").filter(|_| cure.starts_with("write a ")) else {
            continue;
        };
        let mut numbers = range.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        let (from, to) = (numbers.next().expect("the least"), numbers.next().expect("the most"));
        let documented = text.replace('\n', " ").contains(&format!("From {from} to {to}"));
        assert!(documented, "{setting} is not documented as \"From {from} to {to}\":\n{text}");
        seen += 1;
    }
    assert!(seen >= 11, "{seen} settings that are numbers were found");
}

#[test]
fn sizes_have_documented_ranges() {
    let mut seen = 0;
    for (setting, text) in documented() {
        let Some((_, cure)) = said(&setting, "1").filter(|(message, _)| message.contains("bytes are out of"))
        else {
            continue;
        };
        let range = cure.trim_start_matches("write a size from ");
        let documented = text.replace('\n', " ").contains(&format!("From {range}"));
        assert!(documented, "{setting} is not documented as \"From {range}\":\n{text}");
        seen += 1;
    }
    assert_eq!(seen, 4, "settings that are sizes");
}

#[test]
fn what_zero_means_is_documented() {
    let mut seen = 0;
    for (setting, text) in documented() {
        let is_duration =
            said(&setting, "'x'").is_some_and(|(message, _)| message.contains("not a duration"));
        if !is_duration {
            continue;
        }
        let wanted = if said(&setting, "0").is_some() { "0 is refused" } else { "0 means" };
        assert!(text.contains(wanted), "{setting} is not documented with \"{wanted} …\":\n{text}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen} settings that are durations were found");
}
