//! `cargo xtask codegen`: files that are generated from the sources and checked in.
//!
//! The reference of the commands is written here. The rest is written by programs of the crates that it is generated from,
//! whose own tests fail where it is stale.

mod promises;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::CommandFactory;

use crate::{step, workplace};

/// Write the files that are generated from the sources
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Programs that write generated files: package, and how Cargo runs it. Each is given the checkout's folder.
const GENERATORS: [(&str, [&str; 2]); 4] = [
    ("keyfleet-crds", ["--bin", "keyfleet-crds-generate"]),
    ("keyfleet-api", ["--example", "generate"]),
    ("keyfleet-cli", ["--example", "generate"]),
    ("keyfleet-operator", ["--example", "generate"]),
];

/// A generated file: its path in the checkout and its content.
struct Generated {
    path: &'static str,
    content: String,
}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    for file in files()? {
        let path = workplace::checkout().join(file.path);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        fs::write(&path, file.content).with_context(|| format!("writing {}", file.path))?;
        println!("{}", file.path);
    }
    for (package, target) in GENERATORS {
        let mut generator = workplace::cargo(&["run", "--locked", "--package", package]);
        generator.args(target).arg("--").arg(workplace::checkout());
        step::run(&format!("Generating from {package}"), &format!("generate-{package}"), &mut generator)?;
    }
    Ok(())
}

/// Fails where a generated file is not what the sources say.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for file in files()? {
        let path: PathBuf = workplace::checkout().join(file.path);
        if fs::read_to_string(path).ok().as_deref() != Some(&file.content) {
            stale.push(file.path);
        }
    }
    ensure!(
        stale.is_empty(),
        "generated files are not what the sources say: {}\nwrite them with:\n  cargo xtask codegen",
        stale.join(", ")
    );
    Ok(())
}

fn files() -> Result<Vec<Generated>> {
    Ok(vec![
        Generated { path: "docs/commands.md", content: commands() },
        Generated { path: "docs/promises.md", content: promises::document()? },
    ])
}

/// The reference of the commands, from their own help.
fn commands() -> String {
    let mut text = String::from(
        "# Commands\n\nThe commands of people who work on Keyfleet; those of its users are in [keyfleet.md](keyfleet.md). Generated \
         from the commands' own help by `cargo xtask codegen`.\n",
    );
    describe(&mut crate::Arguments::command(), "cargo xtask", &mut text);
    text
}

fn describe(command: &mut clap::Command, name: &str, text: &mut String) {
    let help = command.clone().bin_name(name).term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for sub in names {
        if let Some(found) = command.find_subcommand_mut(&sub) {
            describe(found, &format!("{name} {sub}"), text);
        }
    }
}
