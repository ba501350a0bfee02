//! First processes inside the namespaces: one of the cluster and one of each node.
//!
//! Both are this program under another name. They set their namespaces up, start the components and keep them
//! running, as an init system does on a real machine.

pub(crate) mod cluster;
mod forward;
pub(crate) mod node;
mod supervise;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::spec::Spec;

/// Runs as the first process inside, if `arguments` (without the program's name) ask for it. Returns `false` at once
/// if they do not; otherwise it does not return before its components have ended.
///
/// # Errors
/// The namespaces cannot be set up.
pub fn run(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["inside-cluster", root] => cluster::run(&spec(root)?)?,
        ["inside-node", root, index] => node::run(&spec(root)?, index.parse().context("a node's index")?)?,
        _ => return Ok(false),
    }
    bail!("the first process inside has nothing left to wait for")
}

fn spec(root: &str) -> Result<Spec> {
    let file = PathBuf::from(root).join("spec.json");
    let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))
}

/// Runs a command of the set-up to its end.
fn run_command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}: is it installed?"))?;
    if !output.status.success() {
        bail!("`{program} {}` fails: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
