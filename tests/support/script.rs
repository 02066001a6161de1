//! The language of the transcripts: a text file is a list of transcripts, a transcript a list of steps.
//!
//! ```text
//! == a name, unique in the file
//! ! startup DateStyle=German          startup parameters of all its sessions
//! > Query "select 1"                  or without quotes: the rest of the line
//! > Parse s1 "select $1::int" [23]
//! > Bind "" s1 [t:"1" b:00000001 null] [1]
//! > Execute "" 0
//! > Sync
//! < C                                 read until a message of this type, not until ReadyForQuery
//! B> Query notify c                   a second session; it is opened when it is first used
//! ```
//! Adjacent `>` lines of one session are written at once. A blank line, a `<` line or a line of another session
//! ends the batch; then as many ReadyForQuery are awaited as the batch asks for, two after `< ZZ`, none after `< -`. In quotes
//! `\n`, `\t`, `\\`, `\"` and `\xHH` are escapes; `{{params N}}` becomes `$1,$2,…,$N` and `{{repeat N text}}`
//! that text N times.

use crate::wire::Frame;
use crate::wire_message::{self as message, Value};

/// One transcript.
#[derive(Debug)]
pub struct Transcript {
    /// `file/name`.
    pub name: String,
    /// Startup parameters.
    pub startup: Vec<(String, String)>,
    /// What to do.
    pub steps: Vec<Step>,
}

/// One batch and the wait behind it.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// Who: `A`, `B`, …
    pub session: char,
    /// Bytes to write, and sessions to cancel afterwards.
    pub bytes: Vec<u8>,
    /// The session whose running request is to be cancelled.
    pub cancel: Option<char>,
    /// What to wait for.
    pub wait: Wait,
}

/// The end of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// That many ReadyForQuery.
    Ready(usize),
    /// A message of this type.
    Tag(u8),
    /// The end of the connection.
    End,
}

impl Wait {
    /// Whether it is over when `ready` ReadyForQuery have come, and `last` last.
    #[must_use]
    pub fn is_over(self, ready: usize, last: Option<&Frame>) -> bool {
        match self {
            Self::Ready(count) => ready >= count,
            Self::Tag(tag) => last.is_some_and(|frame| frame.tag == tag),
            Self::End => false,
        }
    }
}

/// Reads a file of transcripts; `topic` is its name.
///
/// # Errors
/// The first line that is not of the language, with its number.
pub fn read(topic: &str, text: &str) -> Result<Vec<Transcript>, String> {
    let mut transcripts: Vec<Transcript> = Vec::new();
    let mut batch = Batch::default();
    for (number, line) in text.lines().enumerate() {
        let fail = |error: String| format!("{topic}:{}: {error}: {line}", number + 1);
        if let Some(name) = line.strip_prefix("== ") {
            batch.finish(transcripts.last_mut(), None);
            let name = format!("{topic}/{}", name.trim());
            if transcripts.iter().any(|other| other.name == name) {
                return Err(fail("name used twice".into()));
            }
            transcripts.push(Transcript { name, startup: Vec::new(), steps: Vec::new() });
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let Some(transcript) = transcripts.last_mut() else {
            if line.is_empty() { continue } else { return Err(fail("before the first transcript".into())) }
        };
        read_line(line, transcript, &mut batch).map_err(fail)?;
    }
    batch.finish(transcripts.last_mut(), None);
    Ok(transcripts)
}

fn read_line(line: &str, transcript: &mut Transcript, batch: &mut Batch) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("! startup ") {
        let pairs = rest.split_whitespace().map(|pair| pair.split_once('=').ok_or("name=value wanted"));
        for pair in pairs {
            let (name, value) = pair?;
            transcript.startup.push((name.into(), value.replace('+', " ")));
        }
        return Ok(());
    }
    if line.trim().is_empty() {
        batch.finish(Some(transcript), None);
        return Ok(());
    }
    let (session, rest) = match line.as_bytes() {
        [b'>' | b'<', ..] => ('A', line),
        [name @ b'A'..=b'Z', b'>' | b'<', ..] => (*name as char, &line[1..]),
        _ => return Err("neither > nor < nor !".into()),
    };
    if batch.session != Some(session) {
        batch.finish(Some(transcript), None);
        batch.session = Some(session);
    }
    if let Some(wait) = rest.strip_prefix('<') {
        let wait = match wait.trim() {
            "-" => Wait::Ready(0),
            "end" => Wait::End,
            many if many.len() > 1 && many.bytes().all(|tag| tag == b'Z') => Wait::Ready(many.len()),
            tag if tag.len() == 1 => Wait::Tag(tag.as_bytes()[0]),
            _ => return Err("one type byte, `-` or `end` wanted".into()),
        };
        batch.finish(Some(transcript), Some(wait));
        return Ok(());
    }
    batch.add(rest[1..].trim())
}

#[derive(Default)]
struct Batch {
    session: Option<char>,
    bytes: Vec<u8>,
    ready: usize,
    cancel: Option<char>,
}

impl Batch {
    fn finish(&mut self, transcript: Option<&mut Transcript>, wait: Option<Wait>) {
        let batch = std::mem::take(self);
        let (Some(transcript), Some(session)) = (transcript, batch.session) else { return };
        let wait = wait.unwrap_or(Wait::Ready(batch.ready));
        transcript.steps.push(Step { session, bytes: batch.bytes, cancel: batch.cancel, wait });
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = Words { rest };
        let bytes = match command {
            "Query" => message::query(&words.quoted_or_rest()?),
            "Parse" => message::parse(&words.word()?, &words.word()?, &words.numbers()?),
            "Bind" => message::bind(&words.word()?, &words.word()?, &words.values()?, &words.numbers()?),
            "Describe" => message::describe(words.kind()?, &words.word()?),
            "Close" => message::close(words.kind()?, &words.word()?),
            "Execute" => message::execute(&words.word()?, words.number()?),
            "Sync" => message::sync(),
            "Flush" => message::flush(),
            "Terminate" => message::terminate(),
            "CopyData" => message::copy_data(&words.bytes()?),
            "CopyDone" => message::copy_done(),
            "CopyFail" => message::copy_fail(&words.word()?),
            "FunctionCall" => message::function_call(words.number()?, &words.values()?, words.number()?),
            "Raw" => words.bytes()?,
            "Cancel" => {
                self.cancel = words.word()?.chars().next();
                Vec::new()
            }
            _ => return Err("unknown command".into()),
        };
        self.ready += usize::from(matches!(command, "Query" | "Sync" | "FunctionCall"));
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }
}

/// The arguments of a command, taken from the left.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn bytes(&mut self) -> Result<Vec<u8>, String> {
        self.rest = self.rest.trim_start();
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([' ', ']']).unwrap_or(self.rest.len());
            let (word, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(word.as_bytes().to_vec());
        };
        let mut out = Vec::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return expand(out);
                }
                '\\' => match characters.next().map(|(_, escaped)| escaped) {
                    Some('n') => out.push(b'\n'),
                    Some('t') => out.push(b'\t'),
                    Some('r') => out.push(b'\r'),
                    Some('x') => {
                        let digits: String = characters.by_ref().take(2).map(|(_, digit)| digit).collect();
                        out.push(u8::from_str_radix(&digits, 16).map_err(|error| error.to_string())?);
                    }
                    Some(other) => out.extend_from_slice(other.to_string().as_bytes()),
                    None => break,
                },
                other => out.extend_from_slice(other.to_string().as_bytes()),
            }
        }
        Err("quote without end".into())
    }

    fn word(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?).map_err(|error| error.to_string())
    }

    fn quoted_or_rest(&mut self) -> Result<String, String> {
        if self.rest.starts_with('"') {
            return self.word();
        }
        String::from_utf8(expand(self.rest.as_bytes().to_vec())?).map_err(|error| error.to_string())
    }

    fn kind(&mut self) -> Result<u8, String> {
        self.word()?.bytes().next().ok_or_else(|| "S or P wanted".into())
    }

    fn number<N: std::str::FromStr>(&mut self) -> Result<N, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("number wanted, not {word:?}"))
    }

    /// A bracketed list, by `item`; an absent list is empty.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<Vec<T>, String>) -> Result<Vec<T>, String> {
        self.rest = self.rest.trim_start();
        let Some(rest) = self.rest.strip_prefix('[') else { return Ok(Vec::new()) };
        self.rest = rest;
        let mut out = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                return Ok(out);
            }
            if self.rest.is_empty() {
                return Err("] missing".into());
            }
            out.extend(item(self)?);
        }
    }

    fn numbers<N: std::str::FromStr>(&mut self) -> Result<Vec<N>, String> {
        self.list(|words| Ok(vec![words.number()?]))
    }

    /// Values: `t:"text"`, `b:hexadecimal`, `null`; `*N` behind one repeats it.
    fn values(&mut self) -> Result<Vec<Value>, String> {
        self.list(|words| {
            let value = if let Some(rest) = words.rest.strip_prefix("t:") {
                words.rest = rest;
                Value::Text(words.bytes()?)
            } else if let Some(rest) = words.rest.strip_prefix("b:") {
                words.rest = rest;
                Value::Binary(hexadecimal(&words.word()?)?)
            } else if words.word()? == "null" {
                Value::Null
            } else {
                return Err("t:, b: or null wanted".into());
            };
            let Some(rest) = words.rest.strip_prefix('*') else { return Ok(vec![value]) };
            words.rest = rest;
            Ok(vec![value; words.number()?])
        })
    }
}

fn hexadecimal(digits: &str) -> Result<Vec<u8>, String> {
    let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map(pair).collect::<Option<_>>().ok_or_else(|| "bad hexadecimal".into())
}

/// Replaces `{{params N}}` and `{{repeat N text}}`.
fn expand(text: Vec<u8>) -> Result<Vec<u8>, String> {
    let Ok(mut text) = String::from_utf8(text.clone()) else { return Ok(text) };
    while let Some(start) = text.find("{{params ").or_else(|| text.find("{{repeat ")) {
        let end = start + text[start..].find("}}").ok_or("}} missing")?;
        let (command, rest) = text[start + 2..end].split_once(' ').ok_or("argument missing")?;
        let (count, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let count: usize = count.parse().map_err(|_| "count wanted")?;
        let replacement = match command {
            "params" => (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(","),
            _ => rest.repeat(count),
        };
        text.replace_range(start..end + 2, &replacement);
    }
    Ok(text.into_bytes())
}
