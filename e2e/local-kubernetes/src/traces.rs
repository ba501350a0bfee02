//! Traces of a cluster on the machine outside its folder: processes and control groups.
//!
//! Nothing is remembered that a killed `up` could have failed to write down: processes are found by the mark in
//! their environment, containers' processes (which have an environment of their own) by their control group.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::layout::Layout;

/// The processes of a cluster, seen from the machine.
///
/// # Errors
/// `/proc` or the control groups cannot be read.
pub fn processes(layout: &Layout) -> Result<Vec<i32>> {
    let (key, value) = layout.mark();
    let mark = [key.as_bytes(), b"=", value.as_os_str().as_encoded_bytes()].concat();
    let mut found = cgroup::processes(layout)?;
    for pid in all_processes()? {
        // A process that ends while it is looked at has no environment any more.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|entry| entry == mark) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The process that is the first inside node `index`'s namespaces, seen from the machine.
///
/// # Errors
/// `/proc` cannot be read.
pub fn node(layout: &Layout, index: u8) -> Result<Option<i32>> {
    let wanted = ["inside-node", &layout.root().to_string_lossy(), &index.to_string()].map(str::to_owned);
    Ok(processes(layout)?.into_iter().find(|pid| arguments(*pid).is_some_and(|words| words[1..] == wanted)))
}

/// Ends every process of the cluster, and waits until the kernel has let go of them.
///
/// # Errors
/// Some do not end within half a minute.
pub fn end_processes(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    loop {
        let left = processes(layout)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if started.elapsed() > Duration::from_secs(30) {
            bail!("the processes {left:?} of the cluster {} do not end: see `ps -fp PID`", layout.name);
        }
        sleep(Duration::from_millis(20));
    }
}

fn all_processes() -> Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// A process's arguments with the folder taken off its program's name.
fn arguments(pid: i32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words: Vec<String> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    words.pop();
    let program = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
    if program == "unshare" {
        return None;
    }
    words[0] = program;
    Some(words)
}
