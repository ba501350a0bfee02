//! Samples and documents, given to `kubectl` as a reader would give them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::documents::{Manifest, manifests};
use keyfleet_scenarios::fleet::Fleet;

/// Every sample, and every block of YAML in README and `docs/`, is accepted by kubectl itself.
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
    for file in files(&checkout.join("docs"))?.into_iter().chain([checkout.join("README.md")]) {
        if file.extension().is_some_and(|extension| extension == "md") {
            all.extend(manifests(&file.display().to_string(), &fs::read_to_string(&file)?)?);
        }
    }
    Ok(all)
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
