//! `cargo xtask test`: everything that has to hold before a change lands.
//!
//! The checks run from the quickest to the slowest and all of them are run, so that one run tells everything that is
//! wrong. [`binaries`] compiles every test once and runs them; the scenarios among them get a cluster by [`scenarios`].

mod binaries;
mod scenarios;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use self::binaries::{Counts, TestBinary};
use crate::workplace::cargo;
use crate::{codegen, pinned, step, tidy, workplace};

/// Check everything: what this says is what counts
///
/// Rules of the house, format, lints, documentation, generated files, licences, unit and property tests, then the scenarios on a local
/// Kubernetes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only one thing: a check (tidy, format, lints, docs, generated, licences), a crate (its tests), or a part of a
    /// test's or scenario's name
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Leave out what takes a cluster
    #[arg(long)]
    fast: bool,
    /// Leave the cluster up afterwards: the next run is quicker, and you can look around
    #[arg(long)]
    keep: bool,
    /// Run the scenarios on your own cluster, by its context in your kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "keep")]
    context: Option<String>,
}

/// A line of the summary.
struct Line {
    name: String,
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Passed(Counts),
    Failed(Counts),
    Skipped(&'static str),
}

/// Outcomes of the checks that have run.
#[derive(Default)]
pub(crate) struct Report(Vec<Line>);

impl Report {
    /// Runs a check that either holds or does not.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        let outcome = match check() {
            Ok(()) => Outcome::Passed(Counts::default()),
            Err(error) => {
                eprintln!("{error:#}");
                Outcome::Failed(Counts { failed: 1, ..Counts::default() })
            }
        };
        self.0.push(Line { name: name.to_owned(), outcome, took: started.elapsed() });
    }

    /// Notes the tests of a binary.
    fn tests(&mut self, name: String, counts: Counts, took: Duration) {
        let outcome = if counts.failed == 0 { Outcome::Passed(counts) } else { Outcome::Failed(counts) };
        self.0.push(Line { name, outcome, took });
    }

    fn skip(&mut self, name: &str, why: &'static str) {
        self.0.push(Line { name: name.to_owned(), outcome: Outcome::Skipped(why), took: Duration::ZERO });
    }

    /// Prints the summary and says whether all is well.
    fn conclude(self, started: Instant) -> ExitCode {
        let width = self.0.iter().map(|line| line.name.len()).max().unwrap_or_default();
        let mut all = Counts::default();
        let mut well = !self.0.is_empty();
        println!();
        for line in &self.0 {
            let text = match &line.outcome {
                Outcome::Passed(counts) if counts.passed > 0 => format!("passed   {} tests", counts.passed),
                Outcome::Passed(_) => "passed".to_owned(),
                Outcome::Failed(counts) if counts.passed > 0 => {
                    format!("FAILED   {} of {} tests", counts.failed, counts.passed + counts.failed)
                }
                Outcome::Failed(_) => "FAILED".to_owned(),
                Outcome::Skipped(why) => format!("left out ({why})"),
            };
            println!("  {:width$}  {:6.1} s  {text}", line.name, line.took.as_secs_f64());
            if let Outcome::Passed(counts) | Outcome::Failed(counts) = &line.outcome {
                all.passed += counts.passed;
                all.failed += counts.failed;
            }
            well &= !matches!(line.outcome, Outcome::Failed(_));
        }
        println!("  {:width$}  {:6.1} s", "in all", started.elapsed().as_secs_f64());
        println!("\n{} passed, {} failed", all.passed, all.failed);
        if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 6] = [
    ("tidy", tidy::check),
    ("format", format),
    ("lints", lints),
    ("docs", docs),
    ("generated", codegen::check),
    ("licences", licences),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let mut report = Report::default();
    let only = arguments.only.as_deref();
    for (name, check) in CHECKS {
        if only.is_none_or(|only| only == name) {
            report.check(name, check);
        }
    }
    if only.is_none_or(|only| CHECKS.iter().all(|(name, _)| *name != only)) {
        // What keeps tests from running at all is a failure like any other: the rest is still told.
        if let Err(error) = tests(arguments, &mut report) {
            report.check("tests run", || Err(error));
        }
    }
    Ok(report.conclude(started))
}

fn tests(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let compiled = match binaries::compile() {
        Ok(compiled) => compiled,
        Err(error) => {
            report.check("tests compile", || Err(error));
            return Ok(());
        }
    };
    report.tests("tests compile".to_owned(), Counts::default(), started.elapsed());
    let (wanted, filter) = wanted(compiled, arguments.only.as_deref())?;
    let (on_a_cluster, alone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(TestBinary::needs_cluster);
    // Some tests start servers by themselves: they learn where the programs are.
    let mut environment = Vec::new();
    if alone.iter().any(|binary| binary.needs("kubernetes")) {
        environment.push(("KEYFLEET_BIN", pinned::kubernetes()?.display().to_string()));
    }
    if alone.iter().any(|binary| binary.needs("chain")) {
        environment.push(("KEYFLEET_CHAIN_BIN", pinned::chain()?.display().to_string()));
    }
    for binary in &alone {
        binary.run(filter, &environment, report)?;
    }
    if arguments.only.is_none() {
        report.check("examples in docs", examples);
    }
    if on_a_cluster.is_empty() {
        return Ok(());
    }
    if arguments.fast {
        report.skip("scenarios", "--fast");
        return Ok(());
    }
    scenarios::run(&on_a_cluster, filter, arguments.keep, arguments.context.as_deref(), report)
}

/// The binaries that `only` asks for: those of a crate, or those with tests whose name contains it, which then is the filter.
fn wanted(all: Vec<TestBinary>, only: Option<&str>) -> Result<(Vec<TestBinary>, Option<&str>)> {
    let Some(only) = only else { return Ok((all, None)) };
    let (of_crate, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|binary| binary.package == only || binary.package == format!("keyfleet-{only}"));
    if !of_crate.is_empty() {
        return Ok((of_crate, None));
    }
    let mut found = Vec::new();
    for binary in others {
        if binary.has_test(only)? {
            found.push(binary);
        }
    }
    anyhow::ensure!(!found.is_empty(), "{only:?} is no check, no crate, and in no test's name");
    Ok((found, Some(only)))
}

fn format() -> Result<()> {
    step::run("Format of Rust", "format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let mut gofmt = Command::new("sh");
    // gofmt itself does not fail; its list of files must be empty.
    gofmt.args(["-c", "list=$(gofmt -l .); echo \"$list\"; test -z \"$list\""]);
    step::run("Format of Go", "format-go", gofmt.current_dir(workplace::checkout().join("e2e/kubernetes")))
}

fn lints() -> Result<()> {
    let words = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    step::run("Lints", "lints", &mut cargo(&words))
}

fn docs() -> Result<()> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    step::run("Documentation", "docs", command.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn examples() -> Result<()> {
    step::run("Examples in the documentation", "examples", &mut cargo(&["test", "--workspace", "--doc", "--locked"]))
}

fn licences() -> Result<()> {
    let mut command = cargo(&["deny", "--all-features", "--locked", "check", "licenses", "bans", "sources"]);
    let path = pinned::search_path(pinned::cargo_deny()?)?;
    step::run("Licences and sources of dependencies", "licences", command.env("PATH", path))
}
