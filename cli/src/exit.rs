//! Exit codes of the program, its errors and warnings.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use keyfleet_client::AskError;
use keyfleet_client::sealed::SealedError;
use keyfleet_threshold::identifiers::NodeIndex;

/// Exit codes, as the help documents them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// All went well.
    Done = 0,
    /// A file, the API server or the program itself failed.
    Failed = 1,
    /// Wrong usage. clap exits with the same code.
    Usage = 2,
    /// Too few nodes answered. Trying again may help.
    TooFewNodes = 3,
    /// Nodes refused the caller. Trying again does not help.
    Refused = 4,
    /// A signature, an epoch or encrypted data does not verify.
    NotVerified = 5,
    /// `status --check`: something needs a look.
    Attention = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Error that ends a command: its exit code, and the sentence for the user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    pub(crate) exit: Exit,
    /// Problem and next step; empty when there is nothing to say.
    pub(crate) message: String,
}

impl CommandError {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Error of the API server or of the program itself.
    pub(crate) fn other(message: impl Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Error of a file.
    pub(crate) fn of_file(path: &Path, error: &dyn Display) -> Self {
        Self::other(format!("{}: {error}", path.display()))
    }

    /// Wrong usage that clap cannot see.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Prints the message to standard error.
    pub(crate) fn print(&self) {
        if !self.message.is_empty() {
            let red = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{red}error:{red:#} {}", self.message);
        }
    }
}

impl From<AskError> for CommandError {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::TooFew(short) if short.is_refusal() => Exit::Refused,
            AskError::TooFew(_) => Exit::TooFewNodes,
            AskError::Length { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

impl From<SealedError> for CommandError {
    fn from(error: SealedError) -> Self {
        let exit = match &error {
            // The reader closed the pipe, and knows.
            SealedError::Write(write) if write.kind() == std::io::ErrorKind::BrokenPipe => {
                return Self::new(Exit::Failed, "");
            }
            SealedError::Identity(_) => Exit::Usage,
            SealedError::NotSealed(_) | SealedError::Stream(_) => Exit::NotVerified,
            _ => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

/// Warns of nodes whose answers were wrong. The result is good without them.
pub(crate) fn warn_of_culprits(culprits: &[NodeIndex]) {
    for node in culprits {
        let yellow = anstyle::AnsiColor::Yellow.on_default().bold();
        anstream::eprintln!(
            "{yellow}warning:{yellow:#} node {node} gave a wrong answer, which was left out; check that node's pod and log"
        );
    }
}
