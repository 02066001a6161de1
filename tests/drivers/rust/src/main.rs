//! An auction application on tokio-postgres and sqlx; ends in `N passed, N failed`.

mod on_sqlx;
mod on_tokio_postgres;

use std::process::ExitCode;

use anyhow::{Context, Result};

/// One variable of libpq's environment.
fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut results = Vec::new();
    if wanted != "sqlx" {
        results.extend(on_tokio_postgres::checks().await);
    }
    if wanted != "tokio-postgres" {
        results.extend(on_sqlx::checks().await);
    }
    for (name, result) in results {
        match result {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                eprintln!("FAILED {name}: {error:?}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
