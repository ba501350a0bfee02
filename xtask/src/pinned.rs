//! Builds the programs of other projects from their pinned sources: the local cluster's, cargo-deny, and Litestream, which ours is
//! measured beside.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{prerequisites, step, workplace};

/// The version that the components report; without it they say v0.0.0, and version checks go wrong.
const VERSION: &str = "v1.34.4";

/// Builds whatever of etcd, Kubernetes, CoreDNS, helm and versitygw is not built yet, and returns the folder that they are in.
pub(crate) fn kubernetes() -> Result<PathBuf> {
    let sources = workplace::checkout().join("e2e/kubernetes");
    // A folder for each state of the sources: two checkouts on different commits do not build in turns.
    let folder = workplace::cache().join("kubernetes").join(&digest(&sources)?[..16]);
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    prerequisites::require("go", "install Go 1.26 or newer from your system or from go.dev")?;
    let (major, minor) = VERSION.trim_start_matches('v').split_once('.').context("a version has a dot")?;
    let minor = minor.split('.').next().unwrap_or_default();
    let version = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.git{name}={value}");
    let stamp =
        ["-s -w".to_owned(), version("Version", VERSION), version("Major", major), version("Minor", minor)].concat();

    let mut kubernetes = go(&sources, &folder);
    kubernetes.args(["-tags=providerless", "-ldflags", &stamp, "./cmd/kubernetes"]);
    step::run("Building etcd and Kubernetes (some 5 minutes the first time)", "build-kubernetes", &mut kubernetes)?;
    let mut others = go(&sources, &folder);
    others.args(["-ldflags", "-s -w", "./cmd/coredns", "./cmd/pause", "./cmd/volumes"]);
    others.args(["helm.sh/helm/v3/cmd/helm", "github.com/versity/versitygw/cmd/versitygw"]);
    step::run("Building CoreDNS, helm and versitygw (some 2 minutes the first time)", "build-others", &mut others)?;
    fs::write(folder.join("complete"), "")?;
    Ok(folder)
}

/// The development chain's program.
pub(crate) fn chain() -> Result<PathBuf> {
    let sources = workplace::checkout().join("e2e/chain");
    let folder = workplace::cache().join("chain").join(&digest(&sources)?[..16]);
    if !folder.join("node_modules").exists() {
        prerequisites::require("npm", "install Node.js 20 or newer from your system or from nodejs.org")?;
        fs::create_dir_all(&folder)?;
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(sources.join(file), folder.join(file))?;
        }
        let mut command = Command::new("npm");
        command.args(["ci", "--no-audit", "--no-fund", "--cache"]).arg(workplace::cache().join("npm"));
        step::run("Installing the development chain", "install-chain", command.current_dir(&folder))?;
    }
    // The package for Linux on amd64, and not the one that chooses a platform: that is a script for Node.
    let program = folder.join("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
    ensure!(program.is_file(), "the development chain's package has no program at {}", program.display());
    Ok(program)
}

/// Returns the folder of cargo-deny, which is built unless it is there.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_program("cargo-deny", "0.20.2")
}

/// Returns the folder of cargo-fuzz, which is built unless it is there.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    cargo_program("cargo-fuzz", "0.13.2")
}

/// Returns the folder of cargo-mutants, which is built unless it is there.
pub(crate) fn cargo_mutants() -> Result<PathBuf> {
    cargo_program("cargo-mutants", "27.1.0")
}

/// Returns the search path with a folder before all others.
pub(crate) fn search_path(first: PathBuf) -> Result<OsString> {
    let others = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([first].into_iter().chain(std::env::split_paths(&others)))?)
}

fn cargo_program(name: &str, version: &str) -> Result<PathBuf> {
    let folder = workplace::cache().join(name).join(version);
    let program = folder.join("bin").join(name);
    if !program.is_file() {
        // Without optimisation it is built in half the time, and does its work in a second or two all the same.
        let mut install = workplace::cargo(&["install", name, "--version", version, "--locked", "--debug"]);
        install.arg("--root").arg(&folder);
        let title = format!("Building {name} (some 2 minutes the first time)");
        step::run(&title, &format!("build-{name}"), &mut install)?;
        ensure!(program.is_file(), "{name} was installed without a program at {}", program.display());
    }
    Ok(folder.join("bin"))
}

/// Litestream, and the writer of SQLite that it is measured with, in the folder that is returned.
pub(crate) fn litestream() -> Result<PathBuf> {
    let sources = workplace::checkout().join("e2e/litestream");
    let folder = workplace::cache().join("litestream").join(&digest(&sources)?[..16]);
    if !folder.join("complete").exists() {
        prerequisites::require("go", "install Go 1.26 or newer from your system or from go.dev")?;
        prerequisites::require("gcc", "SQLite is written in C: install a C compiler (Debian's package gcc)")?;
        let mut command = go(&sources, &folder);
        command.env("CGO_ENABLED", "1").args(["./cmd/load", "github.com/benbjohnson/litestream/cmd/litestream"]);
        step::run("Building Litestream (some 3 minutes the first time)", "build-litestream", &mut command)?;
        fs::write(folder.join("complete"), "")?;
    }
    Ok(folder)
}

fn go(sources: &Path, folder: &Path) -> Command {
    let cache = workplace::cache().join("go");
    let mut command = Command::new("go");
    command.current_dir(sources).env("CGO_ENABLED", "0").env("GOCACHE", cache.join("build"));
    command.env("GOMODCACHE", cache.join("mod")).env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false");
    command.args(["build", "-trimpath", "-o"]).arg(format!("{}/", folder.display()));
    command
}

fn digest(sources: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(sources, &mut files)?;
    ensure!(!files.is_empty(), "{} is empty", sources.display());
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.strip_prefix(sources)?.as_os_str().as_encoded_bytes());
        digest.update(Sha256::digest(fs::read(&file)?));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
