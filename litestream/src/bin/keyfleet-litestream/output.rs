//! Answers as text and as JSON, progress, and errors with their exit codes.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use keyfleet_litestream::chain::ChainError;
use keyfleet_litestream::restore::{Progress, RestoreError};
use serde::Serialize;
use serde_json::{Value, json};

/// Prints an answer: as JSON on request, otherwise by `text`.
pub(crate) fn answer<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) {
    if json {
        println!("{}", serde_json::to_string_pretty(value).expect("answers are plain data"));
    } else {
        println!("{}", text(value));
    }
}

/// Answers about several databases: as text one after the other, as JSON one list at the end. An error about one does
/// not stop the others.
pub(crate) struct Answers {
    json: bool,
    list: Vec<Value>,
    first_error: Option<CommandError>,
}

impl Answers {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, list: Vec::new(), first_error: None }
    }

    /// Takes the answer about one database, and returns it unless it is an error.
    pub(crate) fn add<T: Serialize>(
        &mut self,
        path: &Path,
        location: &str,
        outcome: Result<T, CommandError>,
        text: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let mut entry = match &outcome {
            Ok(value) => serde_json::to_value(value).expect("answers are plain data"),
            Err(error) => json!({ "error": error.to_string() }),
        };
        entry["path"] = path.display().to_string().into();
        entry["location"] = location.into();
        self.list.push(entry);
        match outcome {
            Ok(value) => {
                if !self.json {
                    println!("{}", text(&value));
                }
                Some(value)
            }
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                self.first_error.get_or_insert(error);
                None
            }
        }
    }

    /// Prints the list where that was asked for. Returns the first error, if there was one.
    pub(crate) fn finish(self) -> Result<(), CommandError> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.list).expect("answers are plain data"));
        }
        self.first_error.map_or(Ok(()), Err)
    }
}

/// Returns a progress bar on a terminal; `None` elsewhere.
pub(crate) fn progress(what: &'static str) -> Option<Progress> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} objects, {eta} left")
        .expect("the template is fixed")
        .progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style).with_message(what);
    Some(Arc::new(move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    }))
}

/// Error of a command. Each kind has an exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("{0}")]
    Broken(String),
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error>),
}

impl CommandError {
    pub(crate) fn other(error: impl std::error::Error + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Restore(RestoreError::NoReplica) => 3,
            Self::Restore(
                RestoreError::ReplicaVanished(_)
                | RestoreError::Chain(ChainError::BelowFloor { .. } | ChainError::ForkedBelowFloor { .. }),
            ) => 4,
            Self::Restore(RestoreError::Chain(_) | RestoreError::Integrity(_) | RestoreError::Length { .. })
            | Self::Broken(_) => 5,
            Self::Restore(_) | Self::Other(_) => 1,
        })
    }
}
