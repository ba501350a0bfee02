//! `cargo xtask bench`: figures, printed with what they were measured on.

mod fleet;

use std::collections::BTreeMap;
use std::process::Command as Process;
use std::time::Instant;

use anyhow::{Result, ensure};
use keyfleet_local_kubernetes::cluster;

use crate::target::{self, Wanted};
use crate::{pinned, workplace};

/// Measure, and print figures with the command that makes them
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Measure how long a local cluster takes to come up and to go
    Cluster {
        /// Number of runs, after one that is not counted
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Number of nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// Measure fleets: time to Ready and for a reshare, memory, cost of serving
    Fleet {
        /// Number of nodes of each fleet
        #[arg(long, value_delimiter = ',', default_value = "4,7,10,20")]
        nodes: Vec<u32>,
        /// Number of reshares of each kind
        #[arg(long, default_value_t = 5)]
        reshares: usize,
    },
    /// Measure replication: cost of a commit, bytes shipped, time of a restore; beside it Litestream on SQLite
    Litestream,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Cluster { runs, nodes } => cluster(*runs, *nodes),
        Command::Fleet { nodes, reshares } => fleet::run(nodes, *reshares),
        Command::Litestream => litestream(),
    }
}

fn cluster(runs: usize, nodes: u8) -> Result<()> {
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in 0..=runs {
        let (layout, access) = target::up(&Wanted { name: "bench", nodes, chain: false, images: &[] })?;
        let started = Instant::now();
        cluster::down(&layout)?;
        let down = started.elapsed().as_secs_f64();
        if run > 0 {
            for (what, seconds) in access.milestones_s {
                figures.entry(format!("up to: {what}")).or_default().push(seconds);
            }
            figures.entry("down".to_owned()).or_default().push(down);
        }
    }
    let processors = std::thread::available_parallelism()?;
    println!("\n`cargo xtask bench cluster --runs {runs} --nodes {nodes}` on {processors} processors, seconds:\n");
    println!("| | min | median | max |\n|---|---|---|---|");
    let mut rows: Vec<(String, Vec<f64>)> = figures.into_iter().collect();
    for (_, seconds) in &mut rows {
        seconds.sort_by(f64::total_cmp);
    }
    // In the order in which the milestones are reached; going comes last.
    rows.sort_by(|a, b| (a.0 == "down").cmp(&(b.0 == "down")).then(median(&a.1).total_cmp(&median(&b.1))));
    for (what, seconds) in rows {
        println!("| {what} | {:.2} | {:.2} | {:.2} |", seconds[0], median(&seconds), seconds[seconds.len() - 1]);
    }
    Ok(())
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Runs the crate's own measuring programs beside the servers that they need.
fn litestream() -> Result<()> {
    let programs = pinned::kubernetes()?;
    let beside = pinned::litestream()?;
    for example in ["figures", "beside_litestream"] {
        let mut measure: Process =
            workplace::cargo(&["run", "--release", "--package", "keyfleet-litestream", "--example", example]);
        measure.env("KEYFLEET_BIN", &programs).env("KEYFLEET_LITESTREAM", &beside);
        ensure!(measure.status()?.success(), "measuring {example} failed");
    }
    Ok(())
}
