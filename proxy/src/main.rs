//! `gavel`: the proxy's binary.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use proxy::cli;
use proxy::run::{Outside, run};
use router_config::settings::Log;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The sharding proxy for PostgreSQL: applications connect to it as to one PostgreSQL.
#[derive(Parser)]
#[command(
    name = "gavel",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  gavel config --example > gavel.toml   a complete commented configuration\n  \
                  gavel config --check gavel.toml       all mistakes in it, with the cure\n  \
                  gavel --config gavel.toml             serve; SIGHUP reloads, SIGTERM drains\n  \
                  gavel route --config gavel.toml \"select * from bids where auction_id = 42\"\n\n\
                  Exit status: 0 after a drain, or when it is asked to end while it starts; 1 if it could not start, for its \
                  configuration or anything else; 2 if the command line is wrong."
)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "FILE", env = "GAVEL_CONFIG", value_parser = cli::config::name_or_nothing())]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Print an example configuration file, or check one.
    Config(cli::config::ConfigArgs),
    /// Tell where a statement would go, without running it.
    Route(cli::route::RouteArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Some(Command::Config(args)) => cli::config::run(&args),
        Some(Command::Route(args)) => route(&args),
        None => match args.config.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => serve(path),
            None => cli::config::fail("--config FILE is missing; `gavel config --example` prints one"),
        },
    }
}

fn route(args: &cli::route::RouteArgs) -> ExitCode {
    match cli::route::run(args, &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => cli::config::fail(&error.to_string()),
    }
}

fn serve(path: &Path) -> ExitCode {
    let loaded = match cli::config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => return report.not_started(),
    };
    let set_log_level = start_log(&loaded.config.settings.log);
    let path = path.to_owned();
    let reread = Box::new(move || cli::config::load(&path).map_err(|report| report.text));
    match run(loaded, Outside { reread, set_log_level }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("gavel ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Applies another `log.level`.
type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Logs go to standard error, for people or as JSON. GAVEL_LOG goes before the setting, also when that changes.
fn start_log(log: &Log) -> SetLevel {
    let from_env = EnvFilter::try_from_env("GAVEL_LOG");
    let fixed = from_env.is_ok();
    let filter = from_env.unwrap_or_else(|_| EnvFilter::new(&log.level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.json {
        let lines = lines.json().with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Box::new(move |level| if fixed { Ok(()) } else { set_level(&handle, level) })
    } else {
        let lines = lines.with_ansi(false).with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Box::new(move |level| if fixed { Ok(()) } else { set_level(&handle, level) })
    }
}

fn set_level<S>(handle: &Handle<EnvFilter, S>, level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| format!("log.level: {error}"))?;
    handle.reload(filter).map_err(|error| error.to_string())
}
