//! Tracked files of a checkout, read once for all rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::source::{Token, tokens};

/// Tracked text file.
pub(crate) struct File {
    /// Path from the checkout's root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Tokens of a Rust file; empty for any other.
    pub(crate) tokens: Vec<Token>,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens = if path.ends_with(".rs") { tokens(text) } else { Vec::new() };
        Self { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Returns true for files that programs write: their sources are checked instead.
    pub(crate) fn is_generated(&self) -> bool {
        const FILES: [&str; 4] = ["docs/commands.md", "docs/keyfleet.md", "docs/kinds.md", "docs/promises.md"];
        FILES.contains(&self.path.as_str()) || self.path.contains("/generated/") || self.path.ends_with(".lock")
    }

    /// Returns true for code that ships: no tests, no example, nothing of the developer's tools.
    pub(crate) fn is_product(&self) -> bool {
        let other = ["xtask/", "e2e/"].iter().any(|folder| self.path.starts_with(folder));
        let test = ["/tests/", "/testing/", "/examples/", "/generate/"].iter().any(|part| self.path.contains(part))
            || ["/tests.rs", "/testing.rs", "generate.rs"].iter().any(|end| self.path.ends_with(end));
        self.is_rust() && !other && !test && !self.is_generated()
    }
}

/// All tracked text files.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    /// Paths of all tracked files, text or not.
    pub(crate) paths: BTreeSet<String>,
}

impl Tree {
    /// Reads the files that Git tracks in a checkout.
    ///
    /// # Errors
    /// The folder is no checkout, or Git is not installed.
    pub(crate) fn read(checkout: &Path) -> Result<Self> {
        let listed =
            Command::new("git").args(["ls-files", "-z"]).current_dir(checkout).output().context("running git")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        let names = String::from_utf8(listed.stdout).context("a path that is no UTF-8")?;
        let mut tree = Self { files: Vec::new(), paths: BTreeSet::new() };
        for path in names.split_terminator('\0') {
            // A file that was deleted and not committed yet is no longer part of the tree.
            let Ok(bytes) = fs::read(checkout.join(path)) else { continue };
            tree.paths.insert(path.to_owned());
            if let Ok(text) = String::from_utf8(bytes) {
                tree.files.push(File::new(path, &text));
            }
        }
        Ok(tree)
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust() && !file.is_generated())
    }

    /// Returns a file by its path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns true when a file or folder of this path is tracked.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.paths.contains(path) || self.paths.iter().any(|tracked| tracked.starts_with(&folder))
    }

    /// Returns the folder of the crate that a file belongs to: the nearest above it with a `src/`.
    pub(crate) fn crate_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut folder = path;
        loop {
            folder = folder.rsplit_once('/')?.0;
            if !folder.ends_with("/src") && self.has(&format!("{folder}/src")) {
                return Some(folder);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files: Vec<_> = files.iter().map(|(path, text)| File::new(path, text)).collect();
        Self { paths: files.iter().map(|file| file.path.clone()).collect(), files }
    }
}
