//! `cargo xtask bench`: figures, printed with what they were measured on.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use keyfleet_local_kubernetes::cluster;

use crate::target::{self, Wanted};

/// Measure, and print figures with the command that makes them
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// How long a local cluster takes to come up and to go
    Cluster {
        /// How many times, after one that is not counted
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let Command::Cluster { runs, nodes } = *command;
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
    rows.sort_by(|a, b| {
        (a.0 == "down", a.1[a.1.len() / 2])
            .partial_cmp(&(b.0 == "down", b.1[b.1.len() / 2]))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    for (what, seconds) in rows {
        let (min, median, max) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        println!("| {what} | {min:.2} | {median:.2} | {max:.2} |");
    }
    Ok(())
}
