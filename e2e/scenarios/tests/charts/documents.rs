//! Samples and documents, given to `kubectl` as a reader would give them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::documents::{Manifest, manifests};
use keyfleet_scenarios::fleet::Fleet;

/// Every sample, and every block of YAML in a tracked document, is accepted by kubectl itself.
#[test]
fn kubectl_accepts_every_sample_and_block_of_yaml() -> Result<()> {
    let cluster = Cluster::shared()?;
    // With the ServiceAccount and the Secrets that they name.
    let fleet = Fleet::prepare(&cluster, "documents")?;
    let all = everything(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))?;
    ensure!(all.len() > 5, "only {} manifests were found: the test looks in the wrong place", all.len());
    let mut refused = Vec::new();
    for manifest in all {
        let file = std::env::temp_dir().join(format!("keyfleet-{}-document.yaml", std::process::id()));
        fs::write(&file, &manifest.text)?;
        let apply = ["apply", "--dry-run=server", "--validate=strict", "--filename", &file.display().to_string()];
        if let Err(error) = fleet.namespace.kubectl(&apply) {
            refused.push(format!("{}: {error:#}", manifest.place));
        }
        fs::remove_file(&file)?;
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    Ok(())
}

fn everything(checkout: &Path) -> Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for file in files(&checkout.join("manifests/samples"))? {
        all.push(Manifest { place: file.display().to_string(), text: fs::read_to_string(&file)? });
    }
    for file in documents(checkout)? {
        all.extend(manifests(&file, &fs::read_to_string(checkout.join(&file))?)?);
    }
    Ok(all)
}

/// Returns the documents that Git tracks, by their paths from the checkout's root.
fn documents(checkout: &Path) -> Result<Vec<String>> {
    let listed = Command::new("git").args(["ls-files", "-z", "*.md"]).current_dir(checkout).output()?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.split_terminator('\0').map(str::to_owned).collect())
}

/// Returns the files of a folder and of those in it, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}
