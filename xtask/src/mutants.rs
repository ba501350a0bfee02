//! Mutation testing: code is changed line by line, and some test has to notice.

use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::{pinned, workplace};

/// Arguments of `mutants`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Part of all mutants, such as 0/8: every eighth, from the first
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Files, relative to the checkout, instead of those of the protocol and the planner
    files: Vec<String>,
    /// Lists the mutants and tests none
    #[arg(long)]
    list: bool,
}

/// Files whose every line counts: what a round is made of, and who decides on it.
const FILES: [&str; 7] = [
    "threshold/src/plan/*.rs",
    "threshold/src/round/**/*.rs",
    "threshold/src/coordination/*.rs",
    "threshold/src/feed/*.rs",
    "threshold/src/prekey.rs",
    "threshold/src/purpose.rs",
    "planner/src/**/*.rs",
];

/// Packages whose tests judge: unit tests, and the fixed seeds of the simulation.
const JUDGES: [&str; 3] = ["keyfleet-threshold", "keyfleet-planner", "keyfleet-simulation"];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut command = cargo_mutants()?;
    let files: Vec<&str> = match arguments.files.as_slice() {
        [] => FILES.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    for file in files {
        command.args(["--file", file]);
    }
    for judge in JUDGES {
        command.args(["--test-package", judge]);
    }
    if let Some(shard) = &arguments.shard {
        command.args(["--shard", shard]);
    }
    if arguments.list {
        command.arg("--list");
    }
    let status = command.status().context("cannot start cargo mutants")?;
    ensure!(status.success(), "mutants survived: they are listed above, and in {}", outputs().display());
    Ok(())
}

fn outputs() -> std::path::PathBuf {
    workplace::cache().join("mutants")
}

fn cargo_mutants() -> anyhow::Result<Command> {
    let path = pinned::search_path(pinned::cargo_mutants()?)?;
    let mut command = workplace::cargo(&["mutants", "--no-shuffle", "--minimum-test-timeout", "300", "--output"]);
    command.arg(outputs());
    // Tests, their helpers, and text for people are no code that anything rests on.
    command.args(["--exclude-re", "impl (Display|Debug)", "--exclude", "**/tests/**", "--exclude", "**/tests.rs"]);
    command.env("PATH", path).env("CARGO_BUILD_BUILD_DIR", workplace::cache().join("mutants-build"));
    Ok(command)
}
