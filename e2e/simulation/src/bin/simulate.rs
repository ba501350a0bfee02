//! Runs random lives of whole fleets, and appends what came of each to a file. `cargo xtask simulate` is the way to it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use keyfleet_simulation::Fleet;
use keyfleet_simulation::scenario::{self, Outcome};

/// Runs whole fleets in memory: every fault, every decision, many seeds.
#[derive(Parser)]
struct Arguments {
    /// Number of fleets
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// Replays the fleet of this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Appends one JSON line per fleet; seeds that are there already are not run again
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Writes the events of note, one a line; needs --seed
    #[arg(long, value_name = "FILE", requires = "seed")]
    log: Option<PathBuf>,
    /// Shows one event of note at a time, and waits for Enter; needs --seed
    #[arg(long, requires = "seed")]
    step: bool,
    /// Shows no more than this many events of note; needs --seed
    #[arg(long, value_name = "K", requires = "seed")]
    until: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return replay(&arguments, seed);
    }
    let done = finished(&arguments)?;
    // What breaks is shown below the bar, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let bar = ProgressBar::new(arguments.runs);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} fleets, {eta} left {msg}")?);
    let mut broken = 0_u64;
    for seed in 1..=arguments.runs {
        if !done.contains(&seed) {
            let outcome = scenario::live(&mut scenario::fleet(seed));
            if let Some(what) = &outcome.broken {
                broken += 1;
                bar.println(format!("seed {seed}: {what}\n  replay: cargo xtask simulate --seed {seed} --log FILE"));
            }
            append(&arguments, &outcome)?;
        }
        bar.inc(1);
    }
    bar.finish();
    anyhow::ensure!(broken == 0, "{broken} of {} fleets broke", arguments.runs);
    Ok(())
}

fn replay(arguments: &Arguments, seed: u64) -> anyhow::Result<()> {
    let mut fleet = scenario::fleet(seed);
    let outcome = scenario::live(&mut fleet);
    if let Some(path) = &arguments.log {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        fleet.lines().iter().try_for_each(|line| writeln!(file, "{line}"))?;
    }
    show(arguments, &fleet)?;
    append(arguments, &outcome)?;
    println!("{}", line(&outcome));
    anyhow::ensure!(outcome.broken.is_none(), "seed {seed} broke");
    Ok(())
}

fn show(arguments: &Arguments, fleet: &Fleet) -> anyhow::Result<()> {
    if !arguments.step && arguments.until.is_none() {
        return Ok(());
    }
    for line in fleet.lines().iter().take(arguments.until.unwrap_or(usize::MAX)) {
        println!("{line}");
        if arguments.step {
            std::io::stdin().lock().read_line(&mut String::new())?;
        }
    }
    Ok(())
}

/// The seeds in the results file.
fn finished(arguments: &Arguments) -> anyhow::Result<BTreeSet<u64>> {
    let Some(file) = arguments.results.as_ref().and_then(|path| File::open(path).ok()) else {
        return Ok(BTreeSet::new());
    };
    let mut seeds = BTreeSet::new();
    for line in BufReader::new(file).lines() {
        let result: serde_json::Value = serde_json::from_str(&line?).context("a line of the results is not JSON")?;
        seeds.extend(result["seed"].as_u64());
    }
    Ok(seeds)
}

fn append(arguments: &Arguments, outcome: &Outcome) -> anyhow::Result<()> {
    let Some(path) = &arguments.results else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", line(outcome))?;
    Ok(())
}

fn line(outcome: &Outcome) -> serde_json::Value {
    serde_json::json!({
        "seed": outcome.seed, "n": outcome.nodes, "t": outcome.threshold, "events": outcome.events,
        "rounds": outcome.rounds, "outcome": outcome.broken.as_deref().unwrap_or("held"),
    })
}
