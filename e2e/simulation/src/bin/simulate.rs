//! Runs random lives of whole fleets, and appends what came of each to a file. `cargo xtask simulate` is the way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

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
    /// Number of fleets that live at once [default: one per processor]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
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

/// Outcome of a life in which nothing broke.
const HELD: &str = "held";

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // What breaks is shown with its seed, below the bar.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.seed {
        Some(seed) => replay(&arguments, seed),
        None => run(&arguments),
    }
}

/// Runs all seeds that have no result yet, on all processors. This thread alone writes.
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut total = Summary::default();
    let done = finished(arguments, &mut total)?;
    let mut results = results(arguments)?;
    let bar = ProgressBar::new(arguments.runs);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} fleets, {eta} left {msg}")?);
    bar.inc(done.range(1..=arguments.runs).count() as u64);
    let began = Instant::now();
    let mut lived = 0;
    let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let next = AtomicU64::new(1);
    let (sender, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next, done) = (sender.clone(), &next, &done);
            scope.spawn(move || live_on(arguments.runs, next, done, &sender));
        }
        drop(sender);
        for outcome in outcomes {
            if let Some(what) = &outcome.broken {
                bar.println(broken(outcome.seed, what));
            }
            let line = line(&outcome);
            append(results.as_mut(), &line)?;
            total.add(&line);
            lived += 1;
            bar.inc(1);
        }
        anyhow::Ok(())
    })?;
    bar.finish();
    total.show(lived, began.elapsed());
    anyhow::ensure!(total.broken.is_empty(), "{} of {} fleets broke", total.broken.len(), total.lives);
    Ok(())
}

/// Takes one seed after the other. A fleet belongs to the thread that lives it.
fn live_on(runs: u64, next: &AtomicU64, done: &BTreeSet<u64>, outcomes: &mpsc::Sender<Outcome>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > runs {
            return;
        }
        // The receiver is gone once it cannot write.
        if !done.contains(&seed) && outcomes.send(scenario::live(&mut scenario::fleet(seed))).is_err() {
            return;
        }
    }
}

fn broken(seed: u64, what: &str) -> String {
    let curve = if keyfleet_threshold::curve::IS_TRANSPARENT { "" } else { " --curve" };
    format!("seed {seed}: {what}\n  replay: cargo xtask simulate{curve} --seed {seed} --log FILE")
}

/// Counts over all lives, those of the results file included.
#[derive(Default)]
struct Summary {
    lives: u64,
    events: u64,
    rounds: u64,
    /// Lives by the number of nodes at the beginning.
    nodes: BTreeMap<u64, u64>,
    kinds: BTreeMap<String, u64>,
    broken: Vec<u64>,
}

impl Summary {
    fn add(&mut self, line: &serde_json::Value) {
        let number = |name: &str| line[name].as_u64().unwrap_or_default();
        self.lives += 1;
        self.events += number("events");
        self.rounds += number("rounds");
        *self.nodes.entry(number("n")).or_default() += 1;
        for (kind, count) in line["kinds"].as_object().into_iter().flatten() {
            *self.kinds.entry(kind.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
        if line["outcome"] != HELD {
            self.broken.push(number("seed"));
        }
    }

    fn show(&self, lived: u64, took: Duration) {
        for (kind, count) in &self.kinds {
            println!("{count:>12}  {kind}");
        }
        let nodes: Vec<_> = self.nodes.iter().map(|(nodes, lives)| format!("{nodes}: {lives}")).collect();
        println!("fleets by their number of nodes: {}", nodes.join(", "));
        println!("{} fleets, {} rounds, {} events, broken: {:?}", self.lives, self.rounds, self.events, self.broken);
        if lived > 0 {
            let a_minute = 60.0 * lived as f64 / took.as_secs_f64();
            println!("{lived} of them lived now, {a_minute:.0} a minute");
        }
    }
}

fn replay(arguments: &Arguments, seed: u64) -> anyhow::Result<()> {
    let mut fleet = scenario::fleet(seed);
    let outcome = scenario::live(&mut fleet);
    if let Some(path) = &arguments.log {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        fleet.lines().iter().try_for_each(|line| writeln!(file, "{line}"))?;
    }
    show(arguments, &fleet)?;
    let line = line(&outcome);
    append(results(arguments)?.as_mut(), &line)?;
    println!("{line}");
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

/// The seeds in the results file, whose lives are counted.
fn finished(arguments: &Arguments, total: &mut Summary) -> anyhow::Result<BTreeSet<u64>> {
    let Some(file) = arguments.results.as_ref().and_then(|path| File::open(path).ok()) else {
        return Ok(BTreeSet::new());
    };
    let mut seeds = BTreeSet::new();
    for line in BufReader::new(file).lines() {
        let result: serde_json::Value = serde_json::from_str(&line?).context("a line of the results is not JSON")?;
        if result["seed"].as_u64().is_some_and(|seed| seeds.insert(seed)) {
            total.add(&result);
        }
    }
    Ok(seeds)
}

fn results(arguments: &Arguments) -> anyhow::Result<Option<File>> {
    let Some(path) = &arguments.results else { return Ok(None) };
    let file = OpenOptions::new().create(true).append(true).open(path);
    Ok(Some(file.with_context(|| format!("cannot write {}", path.display()))?))
}

/// Appends a whole line at once, so that an interrupted run leaves none that is cut.
fn append(results: Option<&mut File>, line: &serde_json::Value) -> anyhow::Result<()> {
    let Some(file) = results else { return Ok(()) };
    file.write_all(format!("{line}\n").as_bytes()).context("cannot write the results")
}

fn line(outcome: &Outcome) -> serde_json::Value {
    serde_json::json!({
        "seed": outcome.seed, "n": outcome.nodes, "t": outcome.threshold, "events": outcome.events,
        "rounds": outcome.rounds, "kinds": outcome.kinds, "outcome": outcome.broken.as_deref().unwrap_or(HELD),
    })
}
