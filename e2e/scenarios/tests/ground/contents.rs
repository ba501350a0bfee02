//! Contents of the released images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::{Cluster, output};
use keyfleet_scenarios::machine::xtask;
use keyfleet_scenarios::operator::{NAMESPACE, RELEASE};
use serde_json::Value;

const RELEASED: [&str; 3] = ["cli", "node", "operator"];

/// Builds the released images into `folder` and returns what is said of them: names, digests and archives.
fn build(folder: &Path) -> Result<Vec<[String; 3]>> {
    let archives = folder.display().to_string();
    let words: Vec<&str> = ["image"].into_iter().chain(RELEASED).chain(["--output", &archives]).collect();
    let printed = output(&mut xtask(&words)?)?;
    let fields = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().ok();
    let built: Vec<[String; 3]> = printed.lines().filter_map(fields).collect();
    ensure!(built.len() == RELEASED.len(), "not every image was named: {printed}");
    Ok(built)
}

/// An image, unpacked.
struct Image {
    folder: PathBuf,
    config: Value,
    layers: Vec<PathBuf>,
}

impl Image {
    fn unpack(archive: &Path, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        output(Command::new("tar").args(["--extract", "--file"]).arg(archive).arg("--directory").arg(&folder))?;
        let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let blob = |described: &Value| {
            let digest = described["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            Ok::<_, anyhow::Error>(folder.join("blobs/sha256").join(digest.context("a blob has a digest")?))
        };
        let manifest = read(blob(&read(folder.join("index.json"))?["manifests"][0])?)?;
        let config = read(blob(&manifest["config"])?)?["config"].clone();
        let layers = manifest["layers"].as_array().context("an image has layers")?.iter().map(blob);
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { folder, config, layers })
    }

    /// Permissions and path of every file in it.
    fn files(&self) -> Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for layer in &self.layers {
            let listed = output(Command::new("tar").args(["--list", "--verbose", "--file"]).arg(layer))?;
            files.extend(listed.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.to_owned(), words.nth(4)?.to_owned()))
            }));
        }
        Ok(files)
    }

    /// The program in it.
    fn program(&self, path: &str) -> Result<Vec<u8>> {
        let last = self.layers.last().context("an image has layers")?;
        let name = path.trim_start_matches('/');
        output(
            Command::new("tar").args(["--extract", "--file"]).arg(last).arg("--directory").arg(&self.folder).arg(name),
        )?;
        Ok(fs::read(self.folder.join(name))?)
    }
}

/// A released image holds one program and its libraries, and is the same when built again.
///
/// seed: 003-40
#[test]
fn released_images_are_minimal_and_reproducible() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (build(&folder.path().join("first"))?, build(&folder.path().join("second"))?);
    let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    for ([name, digest, archive], [_, again, other]) in first.iter().zip(&second) {
        ensure!(digest == again, "{name} is {digest} the first time and {again} the second");
        ensure!(fs::read(archive)? == fs::read(other)?, "the archives of {name} differ");
        let image = Image::unpack(Path::new(archive), folder.path().join(digest.replace(':', "-")))?;
        let entrypoint = image.config["Entrypoint"].as_array().context("an image has an entry point")?;
        let [entrypoint] = entrypoint.as_slice() else { anyhow::bail!("{name} runs {entrypoint:?}") };
        let entrypoint = entrypoint.as_str().unwrap_or_default().to_owned();
        // A number: Kubernetes cannot see of a name that it is not root.
        ensure!(image.config["User"] == "65532:65532", "{name} runs as {}", image.config["User"]);
        ensure!(image.config.get("Cmd").is_none(), "{name} has a command beside its entry point");
        let mut programs = Vec::new();
        for (mode, path) in image.files()? {
            ensure!(!mode.contains(['s', 'S', 't']), "{path} of {name} takes another user's rights: {mode}");
            ensure!(mode.starts_with('l') || mode.as_bytes()[8] != b'w', "{path} of {name} may be written to: {mode}");
            let library = path.rsplit('/').next().is_some_and(|file| file.contains(".so."));
            if mode.starts_with('-') && mode.contains('x') && !library {
                programs.push(format!("/{path}"));
            }
        }
        // No shell, no package manager: nothing that runs but this.
        ensure!(programs == [entrypoint.clone()], "{name} holds other programs than its own: {programs:?}");
        let program = image.program(&entrypoint)?;
        let here = checkout.to_string_lossy();
        ensure!(
            memchr::memmem::find(&program, here.as_bytes()).is_none(),
            "{name} tells where it was built, so another checkout gives another image"
        );
    }
    Ok(())
}

/// seed: 003-40
#[test]
fn the_operator_runs_as_nobody_with_a_root_that_it_cannot_write() -> Result<()> {
    let cluster = Cluster::shared()?;
    let selector = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let pods = cluster.get(["--namespace", NAMESPACE, "pods", &selector])?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    ensure!(!pods.is_empty(), "the operator has no pod");
    for pod in pods {
        ensure!(pod["spec"]["securityContext"]["runAsNonRoot"] == true, "the pod may run as root");
        for container in pod["spec"]["containers"].as_array().context("a pod has containers")? {
            let context = &container["securityContext"];
            ensure!(context["readOnlyRootFilesystem"] == true, "{} may write its root", container["name"]);
            ensure!(context["allowPrivilegeEscalation"] == false, "{} may gain rights", container["name"]);
            ensure!(context["capabilities"]["drop"][0] == "ALL", "{} keeps capabilities", container["name"]);
        }
    }
    Ok(())
}
