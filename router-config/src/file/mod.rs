//! The configuration file: TOML in, [`Config`] or all of its mistakes out.
//!
//! Pure: environment variables and the files that settings name are reached through functions that the caller hands in.

mod address;
mod map;
mod mistake;
mod names;
mod reader;
mod sections;
mod value;

use std::collections::HashSet;
use std::path::Path;

use toml::de::DeTable;

use mistake::Lines;
pub use mistake::Mistake;
use reader::{Outside, Reader, Section};

use crate::settings::Settings;
use crate::topology::Topology;

/// A checked configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that is not the map.
    pub settings: Settings,
    /// The map of a new cluster: epoch 1, slots as the ring proposes them. A stored slot map replaces that.
    pub topology: Topology,
}

/// Parses and checks the text of the file at `path`, to which relative file names in it are relative. Every mistake is
/// found in one run, in the order of the text. `env` looks up environment variables, `read` reads files.
pub fn load(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    read: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Config, Vec<Mistake>> {
    let lines = Lines::of(text);
    if let Some(at) = bare_carriage_return(text) {
        // TOML knows no such end of a line: all lines would be one, with as many mistakes as lines.
        let (line, column) = lines.position(at);
        let message = "a carriage return without a line feed".to_owned();
        let cure = "save the file with lines that end in LF or CRLF".to_owned();
        return Err(vec![Mistake { line, column, key: String::new(), message, cure }]);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(&lines, path, Outside { env, read }, !errors.is_empty());
    let mut root = Section::root(&reader, document.get_ref());
    let settings = sections::settings(&mut root);
    let topology = map::topology(&mut root, &settings.listen.address);
    root.finish();
    let mut mistakes = reader.into_mistakes();
    let syntax: Vec<Mistake> = errors.iter().map(|error| syntax_mistake(&lines, error)).collect();
    let unreadable: HashSet<usize> = syntax.iter().flat_map(|error| lines_lost(text, error)).collect();
    // What lies on a line that TOML could not read, or in a section whose head it could not read, is not worth a second message.
    mistakes.retain(|mistake| !unreadable.contains(&mistake.line));
    mistakes.extend(syntax);
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    mistakes.dedup();
    if mistakes.is_empty() { Ok(Config { settings, topology }) } else { Err(mistakes) }
}

fn bare_carriage_return(text: &str) -> Option<usize> {
    text.match_indices('\r').map(|(at, _)| at).find(|at| text.as_bytes().get(at + 1) != Some(&b'\n'))
}

/// The line of a syntax error; where that is the head of a section, the lines of that section too.
fn lines_lost(text: &str, error: &Mistake) -> std::ops::Range<usize> {
    let is_head = |line: &&str| line.trim_start().starts_with('[');
    let mut from = text.lines().skip(error.line.saturating_sub(1));
    let body = match from.next().filter(is_head) {
        Some(_) => from.take_while(|line| !is_head(line)).count(),
        None => 0,
    };
    error.line..error.line + 1 + body
}

fn syntax_mistake(lines: &Lines<'_>, error: &toml::de::Error) -> Mistake {
    let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let cure = if message.contains("duplicate key") {
        "remove one of the two; a list of sections is written [[name]]"
    } else {
        "write key = value, with texts in double quotes and sections like [pool] or [[shards]]"
    };
    Mistake { line, column, key: String::new(), message, cure: cure.to_owned() }
}

/// A complete commented example: every setting with its default.
#[must_use]
pub fn example() -> String {
    include_str!("example.toml").to_owned()
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
