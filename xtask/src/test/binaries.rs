//! The tests as Cargo compiles them: once for the whole workspace, so that every dependency has one set of features.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Report;
use crate::step::{self, Step};
use crate::workplace;

/// Numbers of tests that passed and failed.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

/// A compiled binary of tests.
pub(super) struct TestBinary {
    /// The package that it is of.
    pub(super) package: String,
    /// The library, program or file that it tests.
    target: String,
    program: PathBuf,
    folder: PathBuf,
    /// Servers that its tests start: `needs` under `[package.metadata.xtask]` of its manifest.
    needs: Vec<String>,
}

/// The packages of the workspace by the path of their manifests.
struct Packages(Value);

impl Packages {
    fn of_workspace() -> Result<Self> {
        let output = workplace::cargo(&["metadata", "--no-deps", "--format-version=1", "--locked"]).output()?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self(serde_json::from_slice(&output.stdout).context("cargo prints JSON")?))
    }

    fn by_manifest(&self, path: &str) -> Result<&Value> {
        let mut packages = self.0["packages"].as_array().into_iter().flatten();
        packages.find(|package| package["manifest_path"] == path).with_context(|| format!("{path} is of no package"))
    }
}

/// Compiles all tests.
pub(super) fn compile() -> Result<Vec<TestBinary>> {
    let log = step::log("compile-tests");
    let step = Step::begin(format!("Compiling the tests (log: {})", log.display()));
    fs::create_dir_all(workplace::logs())?;
    let mut child =
        workplace::cargo(&["test", "--workspace", "--no-run", "--locked", "--message-format=json-render-diagnostics"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("running cargo")?;
    let packages = Packages::of_workspace()?;
    let mut binaries = Vec::new();
    for line in BufReader::new(child.stdout.take().context("stdout was asked for")?).lines() {
        binaries.extend(TestBinary::of(&serde_json::from_str(&line?).context("cargo prints JSON")?, &packages)?);
    }
    if !child.wait()?.success() {
        step.failed();
        bail!(
            "the tests do not compile\n{}\nto run it alone:\n  cargo test --workspace --no-run",
            step::tail(&log, 60)
        );
    }
    ensure!(!binaries.is_empty(), "the workspace has no tests: that is a fault, not a success");
    step.done(&format!("{} binaries", binaries.len()));
    Ok(binaries)
}

impl TestBinary {
    /// The binary that a message of Cargo announces, if it is one of tests.
    fn of(message: &Value, packages: &Packages) -> Result<Option<Self>> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return Ok(None);
        }
        let Some(program) = message["executable"].as_str() else { return Ok(None) };
        let manifest = message["manifest_path"].as_str().context("an artifact has a manifest")?;
        let package = packages.by_manifest(manifest)?;
        let needs = package["metadata"]["xtask"]["needs"].as_array().into_iter().flatten();
        Ok(Some(Self {
            package: package["name"].as_str().context("a package has a name")?.to_owned(),
            target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            program: program.into(),
            folder: Path::new(manifest).parent().context("a manifest is in a folder")?.to_owned(),
            needs: needs.filter_map(Value::as_str).map(str::to_owned).collect(),
        }))
    }

    /// Returns true when the tests run on a cluster: those of the scenarios' test folder.
    pub(super) fn needs_cluster(&self) -> bool {
        self.package == "keyfleet-scenarios" && self.target != "keyfleet_scenarios"
    }

    /// Returns true when the tests start programs of the local cluster (`kubernetes`) or the chain (`chain`) themselves.
    pub(super) fn needs(&self, what: &str) -> bool {
        self.needs.iter().any(|need| need == what)
    }

    /// Returns true when it has a test whose name contains `part`.
    pub(super) fn has_test(&self, part: &str) -> Result<bool> {
        let output =
            Command::new(&self.program).args(["--list", "--format", "terse"]).current_dir(&self.folder).output()?;
        let list = String::from_utf8_lossy(&output.stdout);
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).any(|name| name.contains(part)))
    }

    fn title(&self) -> String {
        let own = self.target.replace('_', "-");
        if own == self.package { own } else { format!("{}: {}", self.package, self.target) }
    }

    /// Runs the tests, those whose name contains `filter` if there is one, and notes them. What failing tests say is shown.
    pub(super) fn run(&self, filter: Option<&str>, environment: &[(&str, String)], report: &mut Report) -> Result<()> {
        let name = format!("test-{}-{}", self.package, self.target);
        let path = step::log(&name);
        let started = Instant::now();
        let step = Step::begin(format!("Tests of {} (log: {})", self.title(), path.display()));
        let log = File::create(&path)?;
        let mut command = Command::new(&self.program);
        command
            .args(filter)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| format!("running {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let counts = counted(&text);
        let Some(counts) = counts.filter(|counts| (counts.failed == 0) == status.success()) else {
            step.failed();
            eprintln!("{} ended with {status} and without a result\n{}", self.title(), step::tail(&path, 40));
            report.tests(self.title(), Counts { failed: 1, ..Counts::default() }, started.elapsed());
            return Ok(());
        };
        if counts.failed > 0 {
            step.failed();
            eprintln!("{}\nto run them alone:\n  cargo xtask test --only NAME", failures(&text));
        } else {
            step.done(&format!("{} passed", counts.passed));
        }
        if counts.passed + counts.failed > 0 {
            report.tests(self.title(), counts, started.elapsed());
        }
        Ok(())
    }
}

/// The counts in the closing line of the test harness.
fn counted(text: &str) -> Option<Counts> {
    let line = text.lines().rev().find(|line| line.starts_with("test result: "))?;
    let number = |what: &str| -> Option<usize> {
        line.split(what).next()?.rsplit([' ', ';', '.']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Counts { passed: number(" passed")?, failed: number(" failed")? })
}

/// The part of the harness's output that is about failures.
fn failures(text: &str) -> &str {
    text.find("\nfailures:\n").map_or(text, |at| &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_counted_and_a_missing_one_is_no_success() {
        let text =
            "running 3 tests\n...\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let counts = counted(text).expect("a closing line");
        assert_eq!((counts.passed, counts.failed), (2, 1));
        assert!(counted("running 3 tests\nthread main panicked").is_none(), "a run without an end counts as one");
    }
}
