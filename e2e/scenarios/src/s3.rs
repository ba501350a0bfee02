//! An S3 server of a scenario's own on the local cluster's network: it can be taken away, and its data rolled back, while
//! every other scenario goes on with the cluster's.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::output;
use crate::fleet;
use crate::machine::cluster_folder;
use crate::wait;

/// The control plane's address, which every pod reaches.
const ADDRESS: &str = "172.31.0.1";
/// Ports from here on are free there.
static PORT: AtomicU16 = AtomicU16::new(9100);

/// A server with the bucket `keyfleet`. It ends with this value, and its data go with it.
pub struct S3 {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl S3 {
    /// Starts one.
    ///
    /// # Errors
    /// There is no local cluster, or the server does not start.
    pub fn start() -> Result<Self> {
        let beside = neighbour()?;
        let listening = fs::read_to_string(format!("/proc/{beside}/net/tcp"))?;
        let free = || Some(PORT.fetch_add(1, Ordering::Relaxed)).filter(|port| !listens(&listening, *port));
        let port = std::iter::repeat_with(free).flatten().next().context("ports do not end")?;
        let folder = cluster_folder()?.join(format!("s3-{}-{port}", std::process::id()));
        fs::create_dir_all(folder.join("buckets/keyfleet"))?;
        fs::create_dir_all(folder.join("versions"))?;
        let mut server = Self { folder, port, child: None };
        server.come_back()?;
        Ok(server)
    }

    /// `spec.replication` for it.
    #[must_use]
    pub fn replication(&self, namespace: &str) -> Value {
        let mut spec = fleet::replication(namespace);
        spec["replication"]["s3"]["endpoint"] = json!(format!("http://{ADDRESS}:{}", self.port));
        spec
    }

    /// Kills the server. Its data stay.
    ///
    /// # Errors
    /// It does not end.
    pub fn go_away(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the server again with the data in its folder.
    ///
    /// # Errors
    /// It does not start.
    pub fn come_back(&mut self) -> Result<()> {
        let beside = neighbour()?;
        let environment = fs::read(format!("/proc/{beside}/environ"))?;
        let environment = environment.split(|byte| *byte == 0).filter_map(|entry| {
            let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        // Of the cluster by its environment: whatever becomes of this process, the server goes with the cluster.
        let mut command = Command::new("nsenter");
        command.args(["--target", &beside.to_string(), "--net", "--"]).arg(format!("/proc/{beside}/exe"));
        command.args(["--port", &format!("{ADDRESS}:{}", self.port), "posix", "--versioning-dir"]);
        command.arg(self.folder.join("versions")).arg(self.folder.join("buckets"));
        command.env_clear().envs(environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0);
        let child = command.spawn().context("starting `nsenter` (of util-linux)")?;
        let process = child.id();
        self.child = Some(child);
        wait::until("the S3 server listens", || {
            let listening = fs::read_to_string(format!("/proc/{process}/net/tcp"))?;
            Ok(listens(&listening, self.port).then_some(()))
        })
    }

    /// A copy of everything in it, to be put back later. The server has to be away.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn copy(&self) -> Result<Copy> {
        ensure!(self.child.is_none(), "a server that runs may write while it is copied");
        let at = self.folder.with_extension(format!("copy-{}", PORT.fetch_add(1, Ordering::Relaxed)));
        copy(&self.folder, &at)?;
        Ok(Copy(at))
    }

    /// Replaces the data with those of the copy. The server has to be away.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn roll_back(&self, to: &Copy) -> Result<()> {
        ensure!(self.child.is_none(), "a server that runs would not notice");
        fs::remove_dir_all(&self.folder)?;
        copy(&to.0, &self.folder)
    }

    /// The names of the objects below a prefix of the bucket.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn objects(&self, prefix: &str) -> Result<Vec<String>> {
        let root = self.folder.join("buckets/keyfleet").join(prefix);
        let found = output(Command::new("find").arg(&root).args(["-type", "f", "-printf", "%P\n"]))?;
        Ok(found.lines().map(str::to_owned).collect())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Err(error) = self.go_away() {
            eprintln!("{error:#}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A copy of a folder, gone with this value.
pub struct Copy(PathBuf);

impl Copy {
    /// A copy of `folder`, beside it.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn of(folder: &Path) -> Result<Self> {
        let at =
            cluster_folder()?.join(format!("copy-{}-{}", std::process::id(), PORT.fetch_add(1, Ordering::Relaxed)));
        copy(folder, &at)?;
        Ok(Self(at))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes `folder` what the copy is.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn put_in_place_of(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        output(Command::new("cp").arg("--archive").arg(self.0.join(".")).arg(folder)).map(drop)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// With the attributes in which the server keeps what it knows of its objects.
fn copy(from: &Path, to: &Path) -> Result<()> {
    output(Command::new("cp").arg("--archive").arg(from).arg(to)).map(drop)
}

/// The process of the cluster's own S3 server.
fn neighbour() -> Result<u32> {
    let buckets = cluster_folder()?.join("s3/buckets").display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == buckets.as_bytes()) {
            return Ok(process);
        }
    }
    anyhow::bail!("no S3 server serves {buckets}: this runs on the local cluster alone")
}

/// Returns true when a table of `/proc/PID/net/tcp` has a socket that listens at the port.
fn listens(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some("0A")
    })
}
