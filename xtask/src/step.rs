//! Long steps: what runs, for how long, and where its log is.
//!
//! On a terminal a line is kept current; elsewhere each step is a line when it begins and one when it ends.

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workplace;

/// A step that is under way.
pub(crate) struct Step {
    title: String,
    started: Instant,
    line: Option<ProgressBar>,
}

impl Step {
    /// Says that something has begun.
    pub(crate) fn begin(title: impl Into<String>) -> Self {
        let title = title.into();
        let line = std::io::stderr().is_terminal().then(|| {
            let line = ProgressBar::new_spinner().with_message(title.clone());
            line.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a valid template"));
            line.enable_steady_tick(Duration::from_millis(120));
            line
        });
        if line.is_none() {
            eprintln!("  {title} …");
        }
        Self { title, started: Instant::now(), line }
    }

    /// Says how far it is.
    pub(crate) fn note(&self, what: &str) {
        match &self.line {
            Some(line) => line.set_message(format!("{}: {what}", self.title)),
            None => eprintln!("    {what} ({:.1} s)", self.started.elapsed().as_secs_f64()),
        }
    }

    /// Says that it ended well.
    pub(crate) fn done(self, result: &str) {
        self.end("✓", result);
    }

    /// Says that it did not.
    pub(crate) fn failed(self) {
        self.end("✗", "failed");
    }

    fn end(self, sign: &str, result: &str) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
        let between = if result.is_empty() { "" } else { ": " };
        eprintln!("{sign} {}{between}{result} ({:.1} s)", self.title, self.started.elapsed().as_secs_f64());
    }
}

/// The log of a step by its name.
pub(crate) fn log(name: &str) -> PathBuf {
    workplace::logs().join(format!("{name}.log"))
}

/// Runs a command as a step; what it prints goes to the log `name`.
///
/// # Errors
/// It fails: the end of its log is in the error, and the command that runs it alone.
pub(crate) fn run(title: &str, name: &str, command: &mut Command) -> Result<()> {
    let path = log(name);
    let step = Step::begin(format!("{title} (log: {})", path.display()));
    fs::create_dir_all(workplace::logs())?;
    let file = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
    match status {
        Ok(status) if status.success() => {
            step.done("");
            Ok(())
        }
        other => {
            step.failed();
            let why = other.map_or_else(|error| error.to_string(), |status| status.to_string());
            bail!("{title}: {why}\n{}\nto run it alone:\n  {}", tail(&path, 40), alone(command))
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(path: &std::path::Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    let mut end = format!("--- the end of {}:\n", path.display());
    for line in &all[from..] {
        end.push_str(line);
        end.push('\n');
    }
    end + "---"
}

/// A command as one types it into a shell, with the folder and the variables that it was given.
fn alone(command: &Command) -> String {
    let mut words = Vec::new();
    if let Some(folder) = command.get_current_dir() {
        words.push(format!("cd {} &&", folder.display()));
    }
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", key.to_string_lossy(), quoted(&value.to_string_lossy())));
        }
    }
    words.push(quoted(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|word| quoted(&word.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failing step shows the end of its log, and the command that runs it alone.
    #[test]
    fn a_failing_step_shows_its_log_and_its_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo 'it''s broken' >&2; exit 3"]).env("KEY", "a b").current_dir("/");
        let error = run("Breaking", "step-test", &mut command).expect_err("it fails").to_string();
        for part in ["exit status: 3", "its broken", "cd / && KEY='a b' sh -c "] {
            assert!(error.contains(part), "{part:?} is not in the error:\n{error}");
        }
        let _ = fs::remove_file(log("step-test"));
    }
}
