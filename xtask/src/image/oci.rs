//! OCI image archives, written straight from files: the same content gives the same bytes.
//!
//! Layout: OCI image layout 1.0 in a tar archive (`oci-layout`, `index.json`, `blobs/sha256/…`), with the name that
//! containerd gives the image as an annotation. Layers are uncompressed: they never cross a network.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// One layer: files by their path without a leading slash.
#[derive(Clone, Default)]
pub(crate) struct Layer(BTreeMap<String, Entry>);

#[derive(Clone)]
enum Entry {
    File { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

impl Layer {
    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        self.0.insert(path.to_owned(), Entry::File { content, mode });
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.0.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut folders = BTreeMap::new();
        for path in self.0.keys() {
            let mut end = 0;
            while let Some(next) = path[end..].find('/') {
                end += next + 1;
                folders.insert(path[..end].to_owned(), ());
            }
        }
        let mut archive = Builder::new(Vec::new());
        for folder in folders.keys() {
            archive.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, std::io::empty())?;
        }
        for (path, entry) in &self.0 {
            match entry {
                Entry::File { content, mode } => {
                    let mut header = header(EntryType::Regular, *mode, content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        Ok(archive.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    // Owner, group and time say who built it and when: nothing that the content depends on.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// An image: its layers from the bottom up and what it runs.
pub(crate) struct Image {
    /// The full name, `docker.io/keyfleet/probe:dev`.
    pub(crate) name: String,
    /// From the bottom up.
    pub(crate) layers: Vec<Layer>,
    /// Command that a container runs.
    pub(crate) entrypoint: Vec<String>,
    /// User that the command runs as: a number, so that Kubernetes can see that it is not root.
    pub(crate) user: String,
    /// Labels by `org.opencontainers.image.*` and others.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Image {
    /// Writes the image's archive and returns the digest of its manifest.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub(crate) fn write(&self, archive: &Path) -> Result<String> {
        let mut blobs = BTreeMap::new();
        let mut add = |media_type: &str, content: Vec<u8>| {
            let digest = sha256(&content);
            let described =
                json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()});
            blobs.insert(digest, content);
            described
        };
        let mut layers: Vec<Value> = Vec::new();
        for layer in &self.layers {
            layers.push(add("application/vnd.oci.image.layer.v1.tar", layer.archive()?));
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {"User": self.user, "Entrypoint": self.entrypoint, "WorkingDir": "/", "Labels": self.labels},
            // Uncompressed layers are their own diffs.
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| layer["digest"].clone()).collect::<Vec<_>>()},
        });
        let config = add("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers, "annotations": self.labels,
        });
        let mut manifest = add("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
        let digest = manifest["digest"].as_str().context("a digest is a string")?.to_owned();
        let tag = self.name.rsplit(':').next().unwrap_or("latest");
        manifest["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
        });

        fs::create_dir_all(archive.parent().context("an archive is in a folder")?)?;
        let unfinished = archive.with_extension("new");
        let mut tar = Builder::new(File::create(&unfinished)?);
        let mut put = |path: String, content: &[u8]| {
            let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
            tar.append_data(&mut header, path, content)
        };
        put("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        put("index.json".into(), &serde_json::to_vec(&index)?)?;
        for (digest, content) in &blobs {
            put(format!("blobs/sha256/{digest}"), content)?;
        }
        tar.into_inner()?.flush()?;
        fs::rename(&unfinished, archive).with_context(|| format!("writing {}", archive.display()))?;
        Ok(digest)
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &str) -> Image {
        let mut layer = Layer::default();
        layer.file("usr/bin/program", content.into(), 0o755);
        layer.link("bin", "usr/bin");
        Image {
            name: "docker.io/keyfleet/example:dev".into(),
            layers: vec![layer],
            entrypoint: vec!["/usr/bin/program".into()],
            user: "65532".into(),
            labels: BTreeMap::new(),
        }
    }

    fn written(image: &Image, file: &str) -> (String, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("keyfleet-oci-{}-{file}.tar", std::process::id()));
        let digest = image.write(&path).expect("the archive is written");
        let bytes = fs::read(&path).expect("the archive is there");
        fs::remove_file(&path).expect("the archive can be removed");
        (digest, bytes)
    }

    /// The same content gives the same bytes; other content gives another digest.
    #[test]
    fn an_archive_is_a_function_of_its_content() {
        let (first, second, other) = (written(&image("a"), "1"), written(&image("a"), "2"), written(&image("b"), "3"));
        assert_eq!(first, second, "two archives of the same content differ");
        assert_ne!(first.0, other.0, "the digest does not depend on the content");
    }

    /// Every blob is named by its digest, and every folder is there before its files.
    #[test]
    fn blobs_are_named_by_digest_and_folders_precede_files() {
        let (_, bytes) = written(&image("a"), "4");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut blobs = 0;
        for entry in archive.entries().expect("a tar archive") {
            let mut entry = entry.expect("a whole entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, sha256(&content), "a blob is not what its name says");
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "a layer, a configuration and a manifest");
        let layer = image("a").layers[0].archive().expect("a layer");
        let mut layer = tar::Archive::new(layer.as_slice());
        let paths: Vec<String> = layer
            .entries()
            .expect("a tar")
            .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(paths, ["usr/", "usr/bin/", "bin", "usr/bin/program"]);
    }
}
