//! `cargo xtask tidy`: rules of the house that no compiler knows.
//!
//! | Module | Rule |
//! |---|---|
//! | [`producers`] | code sets every condition, reason, status field, label and metric that the API has, and reads every field of a spec |
//! | [`documents`] | every command, field, metric, path and link that a text names exists; one sentence on maturity |
//! | [`protocol`] | the specification of the protocol names for each check a function and a test that exist |
//! | [`references`] | paths and links lead to something that exists |
//! | [`words`] | comments open with a verb or noun; no calques, also not in messages |
//! | [`dependencies`] | crates depend on each other one way, and pure ones stay pure |
//! | [`modules`] | files of a crate import each other one way |
//! | [`shape`] | one style of modules, files and test names of bounded length |
//!
//! [`tree`] reads the tracked files, [`source`] splits Rust into code, comments and messages, [`figures`] counts.

mod dependencies;
mod documents;
mod figures;
mod modules;
mod producers;
mod protocol;
mod references;
mod shape;
mod source;
mod tree;
mod words;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use self::tree::Tree;
use crate::workplace;

/// Check the rules of the house: names have producers, texts name what exists, words are plain
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print figures of the sources instead: comments, closures, asserts, circles, banned words
    #[arg(long)]
    figures: bool,
    /// Print the figures of another checkout, for instance one that `git worktree add` made of an older commit
    #[arg(long, value_name = "FOLDER", requires = "figures")]
    checkout: Option<PathBuf>,
}

/// Breach of a rule: the place, and the next step.
struct Finding {
    path: String,
    line: usize,
    text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: String) -> Self {
        Self { path: path.to_owned(), line, text }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.figures {
        return figures::print(arguments.checkout.as_deref().unwrap_or(workplace::checkout()));
    }
    check()
}

/// Checks all rules over the tracked files.
///
/// # Errors
/// A rule is broken: each breach is a line of the error.
pub(crate) fn check() -> Result<()> {
    let tree = Tree::read(workplace::checkout())?;
    let mut found = Vec::new();
    producers::check(&tree, &mut found);
    documents::check(&tree, &mut found);
    protocol::check(&tree, &mut found);
    words::check(&tree, &mut found);
    shape::check(&tree, &mut found);
    modules::check(&tree, &mut found);
    dependencies::check(&mut found)?;
    found.sort_by(|a, b| (&a.path, a.line, &a.text).cmp(&(&b.path, b.line, &b.text)));
    found.dedup_by(|a, b| (&a.path, a.line, &a.text) == (&b.path, b.line, &b.text));
    let lines: Vec<_> =
        found.iter().map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.text)).collect();
    ensure!(
        lines.is_empty(),
        "{}\n{} rules of the house are broken; alone: cargo xtask tidy",
        lines.join("\n"),
        lines.len()
    );
    Ok(())
}
