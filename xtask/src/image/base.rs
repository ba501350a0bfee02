//! The bottom layer of images with our programs: the C library that they are linked to, the authorities of the web, a
//! user that is not root. No shell, no package manager.
//!
//! Files come from Debian's packages as they are, with their licences.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::oci::Layer;
use crate::{prerequisites, step, workplace};

/// The user and group that programs run as.
pub(crate) const USER: &str = "65532";

const PACKAGES: [&str; 3] = ["libc6", "libgcc-s1", "ca-certificates"];

/// Libraries that our programs are linked to, and those that the C library loads to resolve names.
const LIBRARIES: [&str; 11] = [
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
];

/// The layer, and the versions of the packages that it is made of.
pub(crate) fn layer() -> Result<(Layer, String)> {
    let mut layer = Layer::default();
    let mut authorities = Vec::new();
    let mut versions = Vec::new();
    for package in PACKAGES {
        let archive = download(package)?;
        let name = archive.file_stem().context("a package has a name")?.to_string_lossy().into_owned();
        versions.push(name.replace("%3a", ":"));
        take(&archive, &mut layer, &mut authorities)?;
    }
    ensure!(!authorities.is_empty(), "the package ca-certificates holds no certificates");
    authorities.sort();
    let bundle: String = authorities.into_iter().map(|(_, certificate)| certificate).collect();
    layer.file("etc/ssl/certs/ca-certificates.crt", bundle.into_bytes(), 0o644);
    layer.file(
        "etc/passwd",
        b"root:x:0:0:root:/:/nonexistent\nkeyfleet:x:65532:65532:keyfleet:/:/nonexistent\n".into(),
        0o644,
    );
    layer.file("etc/group", b"root:x:0:\nkeyfleet:x:65532:\n".into(), 0o644);
    layer.file("etc/nsswitch.conf", b"hosts: files dns\n".into(), 0o644);
    Ok((layer, versions.join(" ")))
}

/// Takes what the layer needs out of a package.
fn take(package: &std::path::Path, layer: &mut Layer, authorities: &mut Vec<(String, String)>) -> Result<()> {
    let output = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).output().context("running dpkg-deb")?;
    ensure!(output.status.success(), "{} is damaged: delete it", package.display());
    let mut archive = tar::Archive::new(output.stdout.as_slice());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let library = LIBRARIES.contains(&name) && path.split('/').any(|part| part.starts_with("lib"));
        if !(library || name == "copyright" || path.starts_with("usr/share/ca-certificates/")) {
            continue;
        }
        if let Some(target) = entry.link_name()? {
            layer.link(&path, &target.to_string_lossy());
        } else if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            if path.ends_with(".crt") {
                authorities.push((path, String::from_utf8(content).context("certificates are PEM")?));
            } else {
                layer.file(&path, content, if library { 0o755 } else { 0o644 });
            }
        }
    }
    Ok(())
}

/// The package's archive: of the version that is installed here, since programs are linked against that.
fn download(package: &str) -> Result<PathBuf> {
    prerequisites::require("dpkg-deb", "images are made of Debian's packages: build them on Debian or Ubuntu")?;
    let folder = workplace::cache().join("apt");
    fs::create_dir_all(&folder)?;
    let asked = Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]).output()?;
    let installed = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    let prefix = if installed.is_empty() {
        format!("{package}_")
    } else {
        format!("{package}_{installed}_").replace(':', "%3a")
    };
    let find = |prefix: &str| -> Result<Option<PathBuf>> {
        let mut found: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        found.sort();
        Ok(found.pop())
    };
    if let Some(archive) = find(&prefix)? {
        return Ok(archive);
    }
    let fetch = |wanted: &str| {
        let mut command = Command::new("apt-get");
        // The user `_apt` may not write to a developer's folder.
        command.args(["download", wanted, "--option", "APT::Sandbox::User=root"]).current_dir(&folder);
        step::run(&format!("Downloading Debian's package {wanted}"), &format!("apt-{package}"), &mut command)
    };
    let exact = if installed.is_empty() { package.to_owned() } else { format!("{package}={installed}") };
    // A version that the archive has replaced by a newer one is no longer offered; a newer C library serves older
    // programs too.
    fetch(&exact)
        .or_else(|_| prerequisites::update_packages().and_then(|()| fetch(&exact)))
        .or_else(|_| fetch(package))?;
    find(&prefix)?
        .map_or_else(|| find(&format!("{package}_")), |archive| Ok(Some(archive)))?
        .context("apt-get downloaded nothing")
}
