//! Input, output that appears whole or not at all, and progress on terminals.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::NamedTempFile;

use crate::exit::CommandError;

/// Smallest file, in bytes, for which progress is shown.
const LONG_BYTES: u64 = 8 << 20;

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Data to read.
pub(crate) struct Input {
    reader: Box<dyn Read>,
    /// Length in bytes, where it is known.
    pub(crate) length: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// When there is no such file, or it is a folder.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        if is_standard(path) {
            return Ok(Self { reader: Box::new(io::stdin().lock()), length: None });
        }
        let file = File::open(path).map_err(|error| CommandError::of_file(path, &error))?;
        let facts = file.metadata().map_err(|error| CommandError::of_file(path, &error))?;
        if facts.is_dir() {
            return Err(CommandError::other(format!("{} is a folder; name a file", path.display())));
        }
        let length = facts.is_file().then_some(facts.len());
        Ok(Self { reader: Box::new(file), length })
    }

    /// Reads everything; of more than `most` bytes, the first `most` + 1.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read_all(self, most: usize) -> Result<Vec<u8>, CommandError> {
        let mut bytes = Vec::new();
        let read = self.reader.take(most as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| CommandError::other(format!("the input cannot be read: {error}")))?;
        Ok(bytes)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Permissions of a file that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Privacy {
    /// As the umask says.
    Public,
    /// Only the owner.
    Private,
}

/// Destination of data. A file appears under its name when [`Output::finish`] returns. Without that nothing is left of it, and
/// an older file stays as it was.
pub(crate) enum Output {
    /// Standard output, or something else than a regular file: written at once.
    Direct(Box<dyn Write>),
    /// A regular file, written beside its path first.
    Whole {
        /// Temporary file beside it, with the bytes written until now.
        file: NamedTempFile,
        /// Path of the file.
        path: PathBuf,
    },
}

impl Output {
    /// Opens an output; standard output for `-`.
    ///
    /// # Errors
    /// When it cannot be written there, or standard output is a terminal that bytes would disturb.
    pub(crate) fn open(path: &Path, privacy: Privacy, bytes: bool) -> Result<Self, CommandError> {
        if is_standard(path) {
            if bytes && io::stdout().is_terminal() {
                return Err(CommandError::usage(
                    "a terminal cannot show the encrypted bytes; name a file with --to, or write to a pipe",
                ));
            }
            return Ok(Self::Direct(Box::new(io::stdout().lock())));
        }
        // A link stays one: what it points to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Ok(facts) = fs::metadata(&path) {
            if facts.is_dir() {
                return Err(CommandError::other(format!("{} is a folder; name a file", path.display())));
            }
            if !facts.is_file() {
                let device =
                    File::options().write(true).open(&path).map_err(|error| CommandError::of_file(&path, &error))?;
                return Ok(Self::Direct(Box::new(device)));
            }
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = match privacy {
            Privacy::Public => 0o666,
            Privacy::Private => 0o600,
        };
        let file = tempfile::Builder::new()
            .prefix(".keyfleet-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder)
            .map_err(|error| CommandError::of_file(folder, &error))?;
        Ok(Self::Whole { file, path })
    }

    /// Gives a file its name, durably.
    ///
    /// # Errors
    /// When it cannot be written or renamed.
    pub(crate) fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::Direct(mut writer) => {
                writer.flush().map_err(|error| CommandError::other(format!("the output cannot be written: {error}")))
            }
            Self::Whole { file, path } => {
                file.as_file().sync_all().map_err(|error| CommandError::of_file(&path, &error))?;
                file.persist(&path).map_err(|error| CommandError::of_file(&path, &error.error))?;
                Ok(())
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(writer) => writer.write(bytes),
            Self::Whole { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Direct(writer) => writer.flush(),
            Self::Whole { file, .. } => file.flush(),
        }
    }
}

/// A bar on standard error: on terminals only, and only when it takes long.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Progress towards `length` bytes, where that is known.
    #[must_use]
    pub(crate) fn new(what: &'static str, length: Option<u64>) -> Self {
        if !io::stderr().is_terminal() || length.is_some_and(|length| length < LONG_BYTES) {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(5));
        let template = match length {
            Some(_) => "{msg} {bytes}/{total_bytes} {bar:30} {bytes_per_sec} {eta}",
            None => "{msg} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(Some(bar))
    }

    /// Sets the number of bytes that are done.
    pub(crate) fn at(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let there = || fs::read_dir(folder.path()).unwrap().count();
        let mut output = Output::open(&path, Privacy::Private, true).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(there(), 0, "what was dropped unfinished left something");
        let mut output = Output::open(&path, Privacy::Private, true).unwrap();
        output.write_all(b"whole").unwrap();
        assert!(!path.exists(), "it has its name before its end");
        output.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), there()), (b"whole".as_slice(), 1));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "others may read a secret");
        let mut output = Output::open(&path, Privacy::Public, true).unwrap();
        output.write_all(b"other").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"whole", "a failure took the older file away");
    }

    #[test]
    fn devices_and_links_stay_what_they_are() {
        let mut output = Output::open(Path::new("/dev/null"), Privacy::Public, true).unwrap();
        assert!(matches!(output, Output::Direct(_)), "a device would be replaced by a file");
        output.write_all(b"x").unwrap();
        output.finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut output = Output::open(&link, Privacy::Public, true).unwrap();
        output.write_all(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link was replaced");
    }
}
