//! SQL to hold the facts against: psql scripts, transcripts of the replay test, plain files.

use std::fs;
use std::path::{Path, PathBuf};

/// Statements of one file, in order.
#[derive(Debug)]
pub struct File {
    /// For messages.
    pub name: String,
    /// One statement each, as PostgreSQL would receive it.
    pub statements: Vec<String>,
}

/// Reads `path`: a file, or all files of a directory.
///
/// # Errors
/// What cannot be read.
pub fn read(path: &Path) -> std::io::Result<Vec<File>> {
    let mut paths: Vec<PathBuf> = if path.is_dir() {
        fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?
    } else {
        vec![path.to_path_buf()]
    };
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        // Some scripts of PostgreSQL are in other encodings; clients of the proxy may be, too, but not this parser.
        let Ok(text) = String::from_utf8(fs::read(&path)?) else { continue };
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let statements = match path.extension().and_then(|e| e.to_str()) {
            Some("sql") => script(&text),
            Some("txt") => transcripts(&text),
            _ => continue,
        };
        files.push(File { name, statements });
    }
    Ok(files)
}

/// Texts of the `Query` and `Parse` lines of transcripts.
fn transcripts(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for line in text.lines() {
        let Some((_, rest)) = line.split_once("> ") else { continue };
        let sql = if let Some(sql) = rest.strip_prefix("Query ") {
            sql
        } else if let Some((_, sql)) = rest.strip_prefix("Parse ").and_then(|r| r.split_once(' ')) {
            sql
        } else {
            continue;
        };
        let sql = match sql.strip_prefix('"') {
            Some(quoted) => unescape(quoted),
            None => sql.to_string(),
        };
        out.extend(script(&sql));
    }
    out
}

fn unescape(quoted: &str) -> String {
    let mut out = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => break,
            },
            other => out.push(other),
        }
    }
    out
}

/// Splits a psql script: backslash commands and the data of COPY are left out, variables are put in by name.
pub fn script(text: &str) -> Vec<String> {
    Splitter { rest: text, statement: String::new(), parens: 0, atomic: false, out: Vec::new() }.run()
}

struct Splitter<'t> {
    rest: &'t str,
    statement: String,
    parens: usize,
    atomic: bool,
    out: Vec<String>,
}

impl Splitter<'_> {
    fn run(mut self) -> Vec<String> {
        while let Some(c) = self.rest.chars().next() {
            match c {
                '\'' => self.quoted('\''),
                '"' => self.take(self.rest[1..].find('"').map_or(self.rest.len(), |at| at + 2)),
                '$' => self.dollar(),
                '-' if self.rest.starts_with("--") => {
                    self.take(self.rest.find('\n').unwrap_or(self.rest.len()))
                }
                '/' if self.rest.starts_with("/*") => self.comment(),
                '\\' => self.command(),
                ':' => self.variable(),
                ';' if self.parens == 0 && !self.atomic => {
                    self.rest = &self.rest[1..];
                    self.end();
                }
                '(' | ')' => {
                    self.parens = if c == '(' { self.parens + 1 } else { self.parens.saturating_sub(1) };
                    self.take(1);
                }
                c if c.is_alphanumeric() || c == '_' => self.word(),
                c => self.take(c.len_utf8()),
            }
        }
        self.end();
        self.out
    }

    fn take(&mut self, bytes: usize) {
        let (head, tail) = self.rest.split_at(bytes.min(self.rest.len()));
        self.statement.push_str(head);
        self.rest = tail;
    }

    fn end(&mut self) {
        let statement = std::mem::take(&mut self.statement);
        (self.parens, self.atomic) = (0, false);
        let trimmed = statement.trim();
        if trimmed.is_empty() {
            return;
        }
        let lower = trimmed.to_lowercase();
        let from_stdin = lower.starts_with("copy") && lower.contains("from") && lower.contains("stdin");
        if from_stdin {
            // Data follows, up to a line with a backslash and a dot.
            let line = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
            self.rest = &self.rest[line..];
            let end = self.rest.find("\\.").map_or(0, |at| at + 2);
            self.rest = &self.rest[end..];
        }
        self.out.push(trimmed.to_string());
    }

    fn word(&mut self) {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
        let word = &self.rest[..end.unwrap_or(self.rest.len())];
        let begins = |s: &str| s.trim_end().to_lowercase().ends_with("begin");
        let lower = self.statement.trim_start().to_lowercase();
        if word.eq_ignore_ascii_case("atomic") && begins(&self.statement) && lower.starts_with("create") {
            self.atomic = true;
        } else if self.atomic && word.eq_ignore_ascii_case("end") {
            self.atomic = false;
        }
        // E'…' has backslashes.
        if word.eq_ignore_ascii_case("e") && self.rest[1..].starts_with('\'') {
            self.take(1);
            return self.quoted('\\');
        }
        self.take(word.len());
    }

    fn quoted(&mut self, escape: char) {
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == '\\' && escape == '\\' {
                chars.next();
            } else if c == '\'' {
                return self.take(at + 1);
            }
        }
        self.take(self.rest.len());
    }

    fn dollar(&mut self) {
        let tag = self.rest[1..].find('$').map(|at| &self.rest[..at + 2]).filter(|tag| {
            let body = &tag[1..tag.len() - 1];
            body.chars().all(|c| c.is_alphanumeric() || c == '_')
                && !body.starts_with(|c: char| c.is_ascii_digit())
        });
        match tag {
            Some(tag) => {
                let end = self.rest[tag.len()..].find(tag).map_or(self.rest.len(), |at| at + 2 * tag.len());
                self.take(end);
            }
            None => self.take(1),
        }
    }

    fn comment(&mut self) {
        let (mut depth, mut at) = (0_usize, 0_usize);
        let bytes = self.rest.as_bytes();
        while at < bytes.len() {
            match &bytes[at..bytes.len().min(at + 2)] {
                b"/*" => (depth, at) = (depth + 1, at + 2),
                b"*/" => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        self.take(at);
    }

    /// `\g` and its kin send what is there; `\;` only separates; others do not concern the statement.
    fn command(&mut self) {
        let line = self.rest.find('\n').unwrap_or(self.rest.len());
        let command = &self.rest[..line];
        if command.starts_with("\\;") {
            self.rest = &self.rest[2..];
            return self.end();
        }
        self.rest = &self.rest[line..];
        let sends = ["\\g", "\\crosstabview", "\\watch", "\\bind", "\\parse"];
        if sends.iter().any(|name| command.starts_with(name)) {
            self.end();
        }
    }

    /// `:name`, `:'name'`, `:"name"`.
    fn variable(&mut self) {
        let next = self.rest[1..].chars().next();
        let before = self.statement.chars().last();
        match next {
            Some('\'' | '"') => self.rest = &self.rest[1..],
            Some(c) if (c.is_alphabetic() || c == '_') && before != Some(':') => self.rest = &self.rest[1..],
            Some(':') => self.take(2),
            _ => self.take(1),
        }
    }
}
