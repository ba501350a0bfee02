//! Exit codes of the program, and its last message.

use std::fmt::Display;
use std::process::ExitCode;

use keyfleet_client::AskError;
use keyfleet_client::sealed::SealedError;

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

/// Why the program ends before its time.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// Problem and next step; empty when there is nothing to say.
    pub message: String,
}

impl Failure {
    /// A failure with a code.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// A failure of a file, the API server or the program.
    pub fn other(message: impl Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Wrong usage that clap cannot see.
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Says it, on standard error.
    pub fn say(&self) {
        if !self.message.is_empty() {
            let red = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{red}error:{red:#} {}", self.message);
        }
    }
}

impl From<AskError> for Failure {
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

impl From<SealedError> for Failure {
    fn from(fault: SealedError) -> Self {
        let exit = match &fault {
            // Whoever reads closed the pipe, and knows.
            SealedError::Write(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Self::new(Exit::Failed, "");
            }
            SealedError::Identity(_) => Exit::Usage,
            SealedError::NotSealed(_) | SealedError::Stream(_) => Exit::NotVerified,
            _ => Exit::Failed,
        };
        Self::new(exit, fault)
    }
}
