//! Gives the scenarios a cluster: one for all of them, or the person's own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use keyfleet_local_kubernetes::cluster;

use super::Report;
use super::binaries::TestBinary;
use crate::target::{self, Wanted};
use crate::{image, installation, workplace};

/// The name of the cluster that scenarios run on.
const CLUSTER: &str = "test";

/// Runs the scenarios' binaries on a cluster with the images of this checkout.
pub(super) fn run(
    binaries: &[TestBinary],
    filter: Option<&str>,
    keep: bool,
    context: Option<&str>,
    report: &mut Report,
) -> Result<()> {
    // Two runs on one machine take turns: they share the cluster's name, and the processors.
    fs::create_dir_all(workplace::cache())?;
    let turn = File::create(workplace::cache().join("scenarios.lock"))?;
    turn.lock()?;

    let images = image::all(image::Profile::Dev)?;
    let mut environment = match context {
        Some(context) => target::own(context, &images)?,
        None => {
            let (layout, access) = target::up(&Wanted { name: CLUSTER, nodes: 2, chain: true, images: &images })?;
            let mut environment = access.environment();
            let path = std::env::var("PATH").unwrap_or_default();
            environment.push(("PATH", format!("{}:{path}", layout.at("bin").display())));
            environment
        }
    };
    let folders = workplace::cluster_folders(PathBuf::new());
    environment.push(("KEYFLEET_XTASK", own_program()?));
    environment.push(("KEYFLEET_CLI", image::folder().join("keyfleet").display().to_string()));
    environment.push(("KEYFLEET_CLUSTER_LOGS", folders.logs.display().to_string()));
    environment.push(("RUST_LIB_BACKTRACE", "0".to_owned()));
    // Scenarios mostly wait: more of them than processors run side by side.
    environment.push(("RUST_TEST_THREADS", "4".to_owned()));
    let settings = installation::settings(&images);
    let tool = |name: &str| {
        let mut command = Command::new(program(name, &environment));
        command.envs(environment.clone());
        command
    };
    installation::operator(&tool, &settings)?;
    environment.push(("KEYFLEET_OPERATOR_SETTINGS", settings));
    for binary in binaries {
        binary.run(filter, &environment, report)?;
    }
    if context.is_none() && !keep {
        report.check("cluster goes", || cluster::down(&target::layout(CLUSTER)?).map(drop));
    } else if keep {
        eprintln!(
            "the cluster is kept: eval \"$(cargo xtask dev env --name {CLUSTER})\", and later cargo xtask dev down --name {CLUSTER}"
        );
    }
    Ok(())
}

/// A program by its name, on the path of `environment`: the search goes by this process's own path otherwise.
fn program(name: &str, environment: &[(&str, String)]) -> PathBuf {
    let path = environment.iter().find(|(key, _)| *key == "PATH").map(|(_, path)| path.as_str()).unwrap_or_default();
    let found = path.split(':').map(|folder| PathBuf::from(folder).join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}

/// This program. Compiling may have put a new one in its place, which does as well.
fn own_program() -> Result<String> {
    let program = std::env::current_exe()?.display().to_string();
    Ok(program.trim_end_matches(" (deleted)").to_owned())
}
