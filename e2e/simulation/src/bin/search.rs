//! Searches all short histories of a fleet for one that breaks it. `cargo xtask search` is the way to it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use keyfleet_simulation::history::Step;
use keyfleet_simulation::search::{Reached, Start, visit};

/// Searches all histories up to a length: nodes away, back, destroyed, wiped and replaced, rounds, rests, other operators.
#[derive(Parser)]
struct Arguments {
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// Number of shares that make the key [default: two thirds]
    #[arg(long)]
    threshold: Option<u16>,
    /// Longest history
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Number of histories that are lived at once [default: one per processor]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // What breaks is shown with its history.
    std::panic::set_hook(Box::new(|_| {}));
    let threshold = arguments.threshold.unwrap_or(u16::try_from((2 * arguments.nodes).div_ceil(3))?);
    let start = Start { nodes: arguments.nodes, threshold };
    let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let (mut frontier, mut seen, mut lived) = (vec![Vec::new()], BTreeSet::new(), 0);
    let began = Instant::now();
    for length in 0..=arguments.steps {
        lived += frontier.len();
        let mut next = Vec::new();
        for (history, reached) in all(start, &frontier, jobs, length)? {
            if !seen.insert(reached.state) {
                continue;
            }
            for step in reached.next {
                let mut longer: Vec<Step> = history.clone();
                longer.push(step);
                next.push(longer);
            }
        }
        println!("{length} steps: {lived} histories, {} states, {:.0?}", seen.len(), began.elapsed());
        frontier = next;
    }
    println!(
        "{} nodes, threshold {threshold}: no history of up to {} steps breaks anything",
        start.nodes, arguments.steps
    );
    Ok(())
}

/// Lives through all histories of one length, in their order.
fn all(start: Start, histories: &[Vec<Step>], jobs: usize, length: usize) -> anyhow::Result<Vec<(Vec<Step>, Reached)>> {
    let bar = ProgressBar::new(histories.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} histories {msg}, {eta} left")?);
    bar.set_message(format!("of {length} steps"));
    let (next, (sender, results)) = (AtomicUsize::new(0), mpsc::channel());
    let mut reached: Vec<Option<Reached>> = histories.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some((at, history)) = take(histories, next) {
                    // The receiver is gone once something broke.
                    if sender.send((at, visit(start, history))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (at, result) in results {
            reached[at] = Some(result.map_err(anyhow::Error::msg)?);
            bar.inc(1);
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    Ok(histories.iter().cloned().zip(reached.into_iter().flatten()).collect())
}

fn take<'a>(histories: &'a [Vec<Step>], next: &AtomicUsize) -> Option<(usize, &'a Vec<Step>)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, histories.get(at)?))
}
