//! `keyfleet-litestream`: looks at replicas, restores and checks them, sweeps what is no longer needed.
//!
//! Exit codes: 0 done; 1 failed; 2 wrong usage; 3 there is provably no replica; 4 the replica is below the floor;
//! 5 the replica does not hold what it should.

mod args;
mod commands;
mod output;
mod text;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,keyfleet_litestream=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match commands::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyfleet-litestream: {error}");
            error.exit_code()
        }
    }
}
