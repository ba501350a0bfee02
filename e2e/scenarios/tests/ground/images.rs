//! Images are the same wherever they are built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::output;
use keyfleet_scenarios::machine::xtask;

/// A folder that goes with the scenario.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// seed: 001-17
#[test]
fn the_same_sources_give_the_same_image_in_another_checkout() -> Result<()> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let elsewhere = Folder(std::env::temp_dir().join(format!("keyfleet-elsewhere-{}", std::process::id())));
    copy_sources(&here, &elsewhere.0)?;
    let first = digest(&here, &elsewhere.0.join("first"))?;
    let second = digest(&elsewhere.0, &elsewhere.0.join("second"))?;
    ensure!(first.starts_with("sha256:"), "no digest was printed but {first:?}");
    ensure!(first == second, "the same sources gave {first} in the one checkout and {second} in the other");
    Ok(())
}

/// Copies what a clone would have, with what is not committed yet.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    let listed =
        output(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(from))?;
    for file in listed.lines() {
        let copy = to.join(file);
        fs::create_dir_all(copy.parent().context("a file is in a folder")?)?;
        // A file that git still lists may have been removed.
        if from.join(file).exists() {
            fs::copy(from.join(file), copy)?;
        }
    }
    Ok(())
}

/// Builds the probe's image in a checkout and returns its digest.
fn digest(checkout: &Path, archives: &Path) -> Result<String> {
    let archives = archives.display().to_string();
    let mut command = xtask(&["image", "probe", "--output", &archives])?;
    let printed = output(command.current_dir(checkout).env("CARGO_MANIFEST_DIR", checkout.join("xtask")))?;
    Ok(printed.split('\t').nth(1).unwrap_or_default().to_owned())
}
