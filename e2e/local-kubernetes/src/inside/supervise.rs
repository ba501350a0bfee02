//! Keeps components running: what a real node leaves to systemd.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};

/// Command line of a component that is started again whenever it ends.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) log: PathBuf,
}

impl Component {
    fn start(&self) -> Result<u32> {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(log, "--- {} {}", self.program.display(), self.arguments.join(" "))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(child.id())
    }
}

/// The components that this process keeps running, by process.
#[derive(Clone, Default)]
pub(super) struct Supervisor(Arc<Mutex<HashMap<u32, Component>>>);

impl Supervisor {
    /// Starts a component; from now on it is started again whenever it ends.
    pub(super) fn start(&self, component: Component) -> Result<u32> {
        // Held while the process starts, so that its end cannot be noticed before it is known.
        let mut running = self.0.lock().expect("no thread panics while it holds the list");
        let process = component.start()?;
        running.insert(process, component);
        Ok(process)
    }

    /// Waits for processes to end, the orphans of containers included, as the first process of a system must; starts
    /// components again. Returns when no process is left.
    pub(super) fn watch(&self) {
        loop {
            let ended = match wait() {
                Ok(WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, _, _)) => process,
                Err(Errno::ECHILD) => return,
                _ => continue,
            };
            let mut running = self.0.lock().expect("no thread panics while it holds the list");
            let Some(component) = u32::try_from(ended.as_raw()).ok().and_then(|process| running.remove(&process))
            else {
                continue;
            };
            drop(running);
            eprintln!("{} has ended and is started again", component.name);
            let again = self.clone();
            spawn(move || {
                sleep(Duration::from_millis(300));
                if let Err(error) = again.start(component) {
                    eprintln!("{error:#}");
                }
            });
        }
    }
}
