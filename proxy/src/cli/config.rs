//! `gavel config`: prints an example configuration file, or checks one and shows all of its mistakes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser};
use router_config::file::{self, Config, Mistake};
use router_config::settings::Settings;

use crate::backend::connect::ConnectContext;
use crate::secrets_file::read_users;
use crate::text_file;
use crate::tls::ListenerTls;

/// The file has mistakes.
const EXIT_MISTAKES: u8 = 1;
/// The file cannot be read, or the command line is wrong (as clap has it).
const EXIT_UNREADABLE: u8 = 2;

/// Prints an example configuration file, or checks one.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(
    group = clap::ArgGroup::new("task").required(true),
    after_help = "Exit status: 0 if the file is right (or the example was printed), 1 if it has mistakes, 2 if it cannot be \
                  read, the answer cannot be written or the command line is wrong."
)]
pub struct ConfigArgs {
    /// Print a complete commented example: every setting with its default.
    #[arg(long, group = "task")]
    pub example: bool,
    /// Check a configuration file and print all mistakes in it: the line, what is wrong and what to write instead.
    #[arg(long, group = "task", value_name = "FILE")]
    pub check: Option<PathBuf>,
}

/// Runs the subcommand.
#[must_use]
pub fn run(args: &ConfigArgs) -> ExitCode {
    match &args.check {
        None => print(&file::example()),
        Some(path) => check(path),
    }
}

/// The value of an environment variable.
pub(super) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A file's name that may be empty: a variable of the environment that is set to nothing is as if it were not set.
pub fn name_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Reads and checks a configuration file; mistakes come as a report for people.
pub fn load(path: &Path) -> Result<Loaded, ExitReport> {
    let text = text_file::read(path).map_err(|error| ExitReport {
        status: EXIT_UNREADABLE,
        text: format!("error: cannot read {}: {error}\n", path.display()),
    })?;
    let config = file::load(&text, path, &env, &text_file::read)
        .map_err(|mistakes| ExitReport { status: EXIT_MISTAKES, text: report(path, &text, &mistakes) })?;
    match Files::read(&config.settings) {
        Ok(files) => Ok(Loaded { config, files }),
        Err(faults) => {
            let text = faults.iter().map(|fault| format!("error: {fault}\n")).collect::<String>();
            Err(ExitReport { status: EXIT_MISTAKES, text })
        }
    }
}

/// A configuration with what is in the files that it names.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The files.
    pub files: Files,
}

/// What is in the files that the settings name, read once: what was checked is what is used.
pub struct Files {
    /// Certificate and key towards applications; `None`: TLS is off.
    pub tls: Option<Arc<ListenerTls>>,
    /// `auth.users_file`
    pub users: HashMap<String, Arc<str>>,
    /// How connections to nodes are made.
    pub connect: Arc<ConnectContext>,
}

impl std::fmt::Debug for Files {
    /// Not the secrets, which must not get into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl Files {
    /// Reads them; what is wrong inside of them, all of it.
    pub fn read(settings: &Settings) -> Result<Self, Vec<String>> {
        let tls = ListenerTls::from_settings(&settings.listen).map_err(|error| format!("[listen] {error}"));
        let users = settings.auth.users_file.as_deref().map(read_users).transpose();
        let users = users.map_err(|error| format!("auth.users_file: {error}"));
        let connect = ConnectContext::from_settings(settings).map_err(|error| format!("[backend] {error}"));
        match (tls, users, connect) {
            (Ok(tls), Ok(users), Ok(connect)) => Ok(Self {
                tls: tls.map(Arc::new),
                users: users.unwrap_or_default(),
                connect: Arc::new(connect),
            }),
            (tls, users, connect) => {
                Err([tls.err(), users.err(), connect.err()].into_iter().flatten().collect())
            }
        }
    }
}

/// What to print and the status to exit with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// Exit status.
    pub status: u8,
    /// Lines for the person who runs the command.
    pub text: String,
}

impl std::fmt::Display for ExitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

impl std::error::Error for ExitReport {}

fn check(path: &Path) -> ExitCode {
    match load(path) {
        Ok(loaded) => print(&summary(path, &loaded.config)),
        Err(report) => {
            complain(&report.text);
            ExitCode::from(report.status)
        }
    }
}

fn summary(path: &Path, config: &Config) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    format!(
        "{} is right: {}, {}, {}.\n",
        path.display(),
        count(config.topology.shards.len(), "shard"),
        count(config.settings.databases.len(), "database"),
        count(config.topology.tables.len(), "table rule"),
    )
}

/// All mistakes, each with its line of the file, a caret below the place and the cure.
fn report(path: &Path, text: &str, mistakes: &[Mistake]) -> String {
    let mut report = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for mistake in mistakes {
        let Mistake { line, column, key, message, cure } = mistake;
        let colon = if key.is_empty() { "" } else { ": " };
        let source = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        // After a lone carriage return a terminal would write over what stands there.
        let source = source.split('\r').next().unwrap_or_default().replace('\t', " ");
        let gutter = " ".repeat(line.to_string().len());
        let caret = " ".repeat(column.saturating_sub(1));
        // Writing to a String cannot fail.
        let _ = writeln!(report, "error: {key}{colon}{message}");
        let _ = writeln!(report, "{gutter}--> {}:{line}:{column}", path.display());
        if !source.is_empty() {
            let _ = writeln!(report, "{gutter} |\n{line} | {source}\n{gutter} | {caret}^");
        }
        let _ = writeln!(report, "{gutter} = {cure}\n");
    }
    let plural = if mistakes.len() == 1 { "" } else { "s" };
    let _ = writeln!(report, "{} has {} mistake{plural}.", path.display(), mistakes.len());
    report
}

/// Prints the answer of the command; what cannot be written, to a full disk for instance, is said.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write to standard output: {error}")),
    }
}

#[allow(clippy::print_stderr, reason = "mistakes are for the person who runs the command")]
fn complain(text: &str) {
    eprint!("{text}");
}

impl ExitReport {
    /// Prints the text for a proxy that does not start; its status is that of any other reason for that.
    #[must_use]
    pub fn not_started(&self) -> ExitCode {
        complain(&self.text);
        ExitCode::FAILURE
    }
}

/// Says what is wrong with the command line.
#[must_use]
pub fn fail(message: &str) -> ExitCode {
    complain(&format!("error: {message}\n"));
    ExitCode::from(EXIT_UNREADABLE)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use expect_test::expect;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ConfigArgs,
    }

    fn temp_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("gavel.toml");
        std::fs::write(&path, text).expect("it can be written to");
        (directory, path)
    }

    #[test]
    fn exactly_one_task() {
        let parse =
            |args: &[&str]| Command::try_parse_from([&["config"], args].concat()).map(|command| command.args);
        assert!(parse(&["--example"]).is_ok_and(|args| args.example));
        assert!(parse(&["--check", "f"]).is_ok_and(|args| args.check == Some(PathBuf::from("f"))));
        assert!(parse(&[]).is_err());
        assert!(parse(&["--example", "--check", "f"]).is_err());
    }

    #[test]
    fn the_example_is_right() {
        let (_directory, path) = temp_file(&file::example());
        let loaded = load(&path).expect("the example has no mistakes");
        assert!(
            summary(&path, &loaded.config).ends_with("is right: 2 shards, 2 databases, 2 table rules.\n")
        );
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        let text = "[pool]\nsize = 'é' # many\n\n[[databases]]\nname = '*'\n\n[[shards]]\nname = 's'\n\tprimry = 'h:1'\n";
        let (_directory, path) = temp_file(text);
        let error = load(&path).expect_err("it has mistakes");
        assert_eq!(error.status, 1);
        let shown = error.text.replace(&path.display().to_string(), "gavel.toml");
        expect![[r#"
            error: pool.size: must be a whole number, not a string
             --> gavel.toml:2:8
              |
            2 | size = 'é' # many
              |        ^
              = write a number from 1 to 10000

            error: shards[1].primary: is missing
             --> gavel.toml:7:1
              |
            7 | [[shards]]
              | ^
              = add primary = "host:5432"

            error: shards[1].primry: is not a setting
             --> gavel.toml:9:2
              |
            9 |  primry = 'h:1'
              |  ^
              = did you mean "primary"?

            gavel.toml has 3 mistakes.
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn files_that_settings_name_are_read() {
        let (directory, path) = temp_file(
            "[listen]\ntls = 'require'\ntls_certificate = 'c.pem'\ntls_key = 'k.pem'\n\n[auth]\nusers_file = 'users'\n\n\
             [[databases]]\nname = '*'\nkind = 'first_shard'\n\n[[shards]]\nname = 's'\nprimary = 'h:1'\n",
        );
        let pair = || rcgen::generate_simple_self_signed(["gavel".to_owned()]).expect("made");
        let put =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
        put("c.pem", &pair().cert.pem());
        put("k.pem", &pair().signing_key.serialize_pem());
        put("users", "\"al\" \"secret\"\nbob\n");
        let error = load(&path).expect_err("neither file is right");
        let shown = error.text.replace(&directory.path().display().to_string(), "DIR");
        expect![[r#"
            error: [listen] the private key DIR/k.pem does not fit the certificate DIR/c.pem: keys may not be consistent: KeyMismatch
            error: auth.users_file: DIR/users, line 2: expected "user" "secret"
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_file_in_another_encoding() {
        let (directory, path) = temp_file("");
        std::fs::write(&path, b"[log]\n# gr\xfcn\n").expect("written");
        let error = load(&path).expect_err("it is Latin-1");
        let shown = error.text.replace(&directory.path().display().to_string(), "DIR");
        assert!(shown.starts_with("error: cannot read DIR/gavel.toml: line 2 has the byte 0xFC"), "{shown}");
    }

    #[test]
    fn a_file_of_carriage_returns_is_shown_up_to_the_first() {
        let (_directory, path) = temp_file("[pool]\rsize = 0\r");
        let error = load(&path).expect_err("one line for TOML");
        let shown = error.text.replace(&path.display().to_string(), "gavel.toml");
        expect![[r#"
            error: a carriage return without a line feed
             --> gavel.toml:1:7
              |
            1 | [pool]
              |       ^
              = save the file with lines that end in LF or CRLF

            gavel.toml has 1 mistake.
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_missing_file() {
        let error = load(Path::new("/nonexistent/gavel.toml")).expect_err("it is not there");
        assert_eq!(error.status, 2);
        assert!(error.text.starts_with("error: cannot read /nonexistent/gavel.toml: "));
    }
}
