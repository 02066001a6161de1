//! Holds what the proxy reads from SQL against PostgreSQL's own parser.
//!
//! `oracle FILE-OR-DIRECTORY …` judges every statement of psql scripts (`.sql`) and transcripts (`.txt`) in several rounds,
//! each with another placement of the tables, and ends with a status other than zero when a statement's facts are
//! wrong. A statement that the proxy refuses is not wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use proxy::sql::{Context, analyse};
use serde_json::Value;

mod again;
mod catalog;
mod commands;
mod corpus;
mod judge;
mod literals;
mod tree;
mod truth;

use catalog::{ROUNDS, Round};
use judge::{Case, Verdict};

/// Wrong statements printed; all are counted.
const PRINTED: usize = 60;

/// Trees of PostgreSQL's tests are deep.
const STACK_BYTES: usize = 1024 * 1024 * 1024;

/// What came out.
#[derive(Debug, Default)]
struct Counts {
    agree: usize,
    refused: usize,
    wrong: usize,
    /// Complaints of PostgreSQL's grammar.
    invalid: usize,
    /// Why statements were refused.
    reasons: BTreeMap<String, usize>,
}

fn main() -> ExitCode {
    let work = || std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run);
    match work().map(|handle| handle.join()) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run() -> bool {
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut literal_faults = 0;
    let mut spellings = 0;
    for argument in std::env::args().skip(1) {
        let files = match corpus::read(Path::new(&argument)) {
            Ok(files) => files,
            Err(error) => {
                eprintln!("{argument}: {error}");
                return false;
            }
        };
        for file in &files {
            judge_file(file, &mut counts);
            for statement in &file.statements {
                let (checked, faults) = literals::check(statement);
                spellings += checked;
                for fault in &faults {
                    println!("LITERALS {}: {fault}\n    {statement}", file.name);
                }
                literal_faults += faults.len();
            }
        }
    }
    report(&counts);
    println!("literals: {spellings} spellings of statements, {literal_faults} wrong");
    literal_faults == 0 && !counts.is_empty() && counts.values().all(|c| c.wrong == 0)
}

fn report(counts: &BTreeMap<&str, Counts>) {
    println!("{:12} {:>8} {:>8} {:>8} {:>8}", "round", "agree", "refused", "wrong", "no SQL");
    for (round, c) in counts {
        println!("{round:12} {:8} {:8} {:8} {:8}", c.agree, c.refused, c.wrong, c.invalid);
    }
    if std::env::var_os("ORACLE_REASONS").is_some() {
        for (round, c) in counts {
            let mut reasons: Vec<_> = c.reasons.iter().collect();
            reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            for (reason, n) in reasons.iter().take(40) {
                println!("{round:12} {n:6} {reason}");
            }
        }
    }
}

fn judge_file(file: &corpus::File, counts: &mut BTreeMap<&'static str, Counts>) {
    let parsed: Vec<(&str, Option<Value>)> =
        file.statements.iter().map(|s| (s.as_str(), tree::parse(s))).collect();
    let prints: Vec<Option<String>> = parsed
        .iter()
        .map(|(sql, tree)| tree.as_ref().filter(|t| commands::is_dml(t)).and_then(|_| again::printed(sql)))
        .collect();
    let trees: Vec<&Value> = parsed.iter().filter_map(|(_, t)| t.as_ref()).collect();
    let tables = catalog::tables(&trees);
    let mut functions: Vec<String> = trees
        .iter()
        .flat_map(|t| tree::all(t, "FuncCall"))
        .filter_map(|call| tree::strings(tree::list(call, "funcname")).pop())
        .collect();
    functions.sort();
    functions.dedup();
    for round in &ROUNDS {
        let schema = catalog::schema(&tables, &functions, round);
        let context = Context {
            schema: &schema,
            search_path: &schema.default_search_path,
            temp_tables: false,
            standard_conforming_strings: true,
            statement_parse_bytes: 1 << 20,
            id: 1,
        };
        let counts = counts.entry(round.name).or_default();
        for ((sql, tree), print) in parsed.iter().zip(&prints) {
            let Some(tree) = tree else {
                counts.invalid += 1;
                continue;
            };
            let statement = Statement { file: &file.name, sql, tree, print: print.as_deref() };
            judge_one(&statement, (round, &context), counts);
        }
    }
}

/// A statement that PostgreSQL accepts.
struct Statement<'f> {
    file: &'f str,
    sql: &'f str,
    tree: &'f Value,
    print: Option<&'f str>,
}

fn judge_one(statement: &Statement<'_>, (round, context): (&Round, &Context<'_>), counts: &mut Counts) {
    let Statement { file, sql, tree, print } = *statement;
    let facts = analyse(sql, context);
    let case = Case { schema: context.schema, sql, tree, facts: &facts, round };
    let mut verdict = judge::judge(&case, truth::Reader::new(context.schema, sql));
    if matches!(verdict, Verdict::Agree)
        && commands::is_dml(tree)
        && let Some(difference) = print.and_then(|p| again::difference(sql, &facts, p, context))
    {
        verdict = Verdict::Wrong(vec![difference]);
    }
    match verdict {
        Verdict::Agree => counts.agree += 1,
        Verdict::Refused => {
            counts.refused += 1;
            let why = match (&facts.command, &facts.scope) {
                (proxy::sql::facts::Command::Unreadable { complaint }, _) => complaint.clone(),
                (_, proxy::sql::facts::Scope::Unknown { why }) => why.clone(),
                _ => String::new(),
            };
            let short: String = why.chars().take(60).collect();
            *counts.reasons.entry(short).or_default() += 1;
        }
        Verdict::Wrong(reasons) => {
            counts.wrong += 1;
            if counts.wrong <= PRINTED {
                println!("WRONG {file} ({}): {}\n    {sql}\n", round.name, reasons.join("\n    and "));
            }
        }
    }
}
