//! Whole fleets in memory: over many seeds, or over all short histories.

use std::process::Command;

use anyhow::Context as _;

/// Arguments of `simulate` and `search`: all but `--curve` go to the simulation's own program.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// --runs N, --seed S, --results FILE, --log FILE, --step, --until K; of search --nodes N, --threshold T, --steps K
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
    /// Uses BLS12-381 instead of the transparent group: fifteen times slower
    #[arg(long)]
    curve: bool,
}

/// Runs one of the simulation's programs: `simulate` or `search`.
pub(crate) fn run(program: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--profile", "simulate", "--package", "keyfleet-simulation", "--bin", program]);
    // Behind the first argument everything is taken for the program's own, `--curve` too.
    let (curve, others): (Vec<_>, Vec<_>) = arguments.arguments.iter().partition(|argument| *argument == "--curve");
    if !arguments.curve && curve.is_empty() {
        command.args(["--features", "transparent-group"]);
    }
    let status = command.arg("--").args(others).status().context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "the simulation found something; what replays it is above");
    Ok(())
}
