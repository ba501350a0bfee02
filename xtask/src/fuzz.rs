//! Hostile input, guided by coverage.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::{pinned, workplace};

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Targets: folders of e2e/fuzz/corpora; none: all of them
    targets: Vec<String>,
    /// Duration of each target
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    seconds: u32,
    /// Keeps the inputs that reach new code: a minimal set of them goes into e2e/fuzz/corpora
    #[arg(long)]
    keep: bool,
}

/// Folder of everything that hostile input needs, within the checkout.
const FOLDER: &str = "e2e/fuzz";

/// Longest input, in bytes: the longest message has 60 KiB, and most have far less.
const LENGTH_MAX: usize = 65_536;

/// Largest input that is kept, in bytes: corpora are for reading along.
const KEPT_MAX: usize = 8_192;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let corpora = workplace::checkout().join(FOLDER).join("corpora");
    let known = names(&corpora)?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        anyhow::bail!("{unknown} is no target; there are {}", known.join(", "));
    }
    let targets = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    for target in targets {
        println!("{target}: {} s", arguments.seconds);
        let found = workplace::cache().join("fuzz").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let mut search = cargo_fuzz("run", target)?;
        search.arg(&found).arg(corpora.join(target)).arg("--");
        search.arg(format!("-max_total_time={}", arguments.seconds)).arg(format!("-max_len={LENGTH_MAX}"));
        let status =
            search.args(["-timeout=20", "-print_final_stats=1"]).status().context("cannot start cargo fuzz")?;
        ensure!(status.success(), "{target} found an input that breaks a promise: its file is named above");
        if arguments.keep {
            keep(target, &found, &corpora.join(target))?;
        }
    }
    Ok(())
}

/// Puts a minimal set of what was found beside what was kept before.
fn keep(target: &str, found: &Path, kept: &Path) -> anyhow::Result<()> {
    let small = format!("-max_len={KEPT_MAX}");
    let mut merge = cargo_fuzz("run", target)?;
    let status =
        merge.arg(kept).arg(found).args(["--", "-merge=1", &small]).status().context("cannot start cargo fuzz")?;
    ensure!(status.success(), "the inputs of {target} could not be merged");
    Ok(())
}

fn names(corpora: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(corpora).with_context(|| format!("cannot read {}", corpora.display()))?;
    let names: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names: Vec<_> = names?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

/// cargo-fuzz on the one program of all targets. Coverage alone: the address sanitizer needs a nightly compiler, and only blst
/// and the curve's calls into it are unsafe.
fn cargo_fuzz(verb: &str, target: &str) -> anyhow::Result<Command> {
    let path = pinned::search_path(pinned::cargo_fuzz()?)?;
    let mut command = workplace::cargo(&["fuzz", verb, "--sanitizer", "none", "--fuzz-dir"]);
    command.arg(workplace::checkout().join(FOLDER).join("coverage-guided"));
    if target == "rounds" {
        command.args(["--features", "transparent-group"]);
    }
    command.arg("target").env("KEYFLEET_FUZZ_TARGET", target).env("PATH", path);
    let build = workplace::cache().join("fuzz-build");
    command.env("CARGO_TARGET_DIR", &build).env("CARGO_BUILD_BUILD_DIR", &build);
    Ok(command)
}
