//! Container images: what there is, and how each is made.
//!
//! Program images are a base layer of Debian's C library and one layer with the program, stripped of what only debuggers
//! read. They run as a user that is not root and hold no shell. The images of the local cluster itself hold one static
//! program each.

mod base;
mod oci;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use keyfleet_local_kubernetes::config::PAUSE_IMAGE;

use self::oci::{Image, Layer};
use crate::step::{self, Step};
use crate::workplace;

/// A program of the workspace that has an image.
struct Program {
    /// The image's name after `keyfleet/`.
    name: &'static str,
    /// The program's name.
    binary: &'static str,
    /// Compiled with faults on demand: for scenarios, and in no release.
    faults: bool,
    description: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "node",
        binary: "keyfleet-node",
        faults: false,
        description: "One key-management node of a Keyfleet fleet",
    },
    Program {
        name: "node-faults",
        binary: "keyfleet-faulty-node",
        faults: true,
        description: "A key-management node that dies and lies on demand, for scenarios: never run it with a key that counts",
    },
    Program {
        name: "operator",
        binary: "keyfleet-operator",
        faults: false,
        description: "Keeps fleets of key-management nodes as their KmsClusters say",
    },
    Program {
        name: "cli",
        binary: "keyfleet",
        faults: false,
        description: "Asks a Keyfleet fleet from a pod: encrypts, decrypts, signs, verifies",
    },
    Program {
        name: "probe",
        binary: "probe",
        faults: false,
        description: "What scenarios run in pods: resolves names, serves and calls HTTP, writes its volume, shows its token",
    },
];

/// Prefix of the variables that ask for faults. Every program that is compiled with the node's fault hook contains it.
const FAULTS: &[u8] = b"KEYFLEET_DANGER";

/// The packages that compile product crates with features for tests: what is built together with them gets these features.
const FOR_TESTS: &[&str] = &["keyfleet-faulty-node", "keyfleet-test-fleet"];

/// The tag of images that are built here: they are never pulled.
const TAG: &str = "dev";

/// Build the container images, without a registry or a Docker daemon
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The images to build (default: all of them)
    #[arg(value_name = "IMAGE")]
    names: Vec<String>,
    /// Write the archives into this folder (default: the cache)
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Compile as for a release: slow to build, fast to run
    #[arg(long)]
    release: bool,
}

/// Cargo profile of the programs in an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As tests are.
    Dev,
    /// As releases are.
    Release,
}

impl Profile {
    fn cargo(self, arguments: &[&str]) -> Command {
        let release: &[&str] = if self == Self::Release { &["--release"] } else { &[] };
        workplace::cargo(&[arguments, release].concat())
    }

    fn folder(self) -> PathBuf {
        folder().with_file_name(if self == Self::Release { "release" } else { "debug" })
    }
}

/// An image that is built.
pub(crate) struct Built {
    /// The archive.
    pub(crate) archive: PathBuf,
    /// The full name.
    pub(crate) name: String,
    /// The digest of the manifest.
    pub(crate) digest: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments.output.clone().unwrap_or_else(workplace::images);
    let folder = std::path::absolute(folder)?;
    let profile = if arguments.release { Profile::Release } else { Profile::Dev };
    for image in programs(&arguments.names, profile, &folder)? {
        println!("{}\t{}\t{}", image.name, image.digest, image.archive.display());
    }
    Ok(())
}

/// Builds all program images into the cache.
pub(crate) fn all(profile: Profile) -> Result<Vec<Built>> {
    programs(&[], profile, &workplace::images())
}

/// Builds those that a release has into the cache.
pub(crate) fn released() -> Result<Vec<Built>> {
    let names: Vec<_> = PROGRAMS.iter().filter(|program| !program.faults).map(|program| program.name.into()).collect();
    programs(&names, Profile::Dev, &workplace::images())
}

/// Builds the images of programs by name; none named means all.
fn programs(names: &[String], profile: Profile, folder: &Path) -> Result<Vec<Built>> {
    for name in names {
        if !PROGRAMS.iter().any(|program| program.name == name) {
            let known: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
            bail!("there is no image {name:?}; there are: {}", known.join(", "));
        }
    }
    let wanted: Vec<_> =
        PROGRAMS.iter().filter(|program| names.is_empty() || names.iter().any(|name| name == program.name)).collect();
    let faulty = wanted.iter().any(|program| program.faults);
    let binaries = compile(profile)?;
    if faulty {
        compile_faulty(profile)?;
    }
    let (base, packages) = base::layer()?;
    let step = Step::begin("Writing images");
    let mut built = Vec::new();
    for program in wanted {
        let mut layer = Layer::default();
        let path = format!("usr/local/bin/{}", program.binary);
        let compiled = stripped(&binaries.join(program.binary))?;
        ensure!(
            knows_faults(&compiled) == program.faults,
            "{} was compiled with other features than its own",
            program.name
        );
        layer.file(&path, compiled, 0o755);
        let labels = labels(program, &packages);
        built.push(write(folder, &image(program.name, vec![base.clone(), layer], format!("/{path}"), labels))?);
    }
    step.done(&format!("{} in {}", built.len(), folder.display()));
    Ok(built)
}

/// Builds the images that the local cluster itself is made of, from the programs in `bin`.
pub(crate) fn of_cluster(bin: &Path) -> Result<Vec<PathBuf>> {
    let key = bin.file_name().context("the programs are in a folder")?;
    let folder = workplace::images().join(key);
    let mut archives = Vec::new();
    for (name, program) in [(PAUSE_IMAGE, "pause"), ("docker.io/keyfleet/dev-coredns:1", "coredns")] {
        let archive = folder.join(format!("dev-{program}.tar"));
        if !archive.exists() {
            let mut layer = Layer::default();
            layer.file(program, fs::read(bin.join(program))?, 0o755);
            let mut image = image(program, vec![layer], format!("/{program}"), BTreeMap::new());
            name.clone_into(&mut image.name);
            image.write(&archive)?;
        }
        archives.push(archive);
    }
    Ok(archives)
}

fn image(name: &str, layers: Vec<Layer>, entrypoint: String, labels: BTreeMap<String, String>) -> Image {
    let user = format!("{0}:{0}", base::USER);
    Image { name: format!("docker.io/keyfleet/{name}:{TAG}"), layers, entrypoint: vec![entrypoint], user, labels }
}

fn write(folder: &Path, image: &Image) -> Result<Built> {
    let file = image.name.rsplit('/').next().unwrap_or(&image.name).replace(':', "-");
    let archive = folder.join(format!("{file}.tar"));
    let digest = image.write(&archive)?;
    Ok(Built { archive, name: image.name.clone(), digest })
}

fn labels(program: &Program, packages: &str) -> BTreeMap<String, String> {
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    BTreeMap::from([
        label("title", &format!("keyfleet/{}", program.name)),
        label("description", program.description),
        label("licenses", "Apache-2.0"),
        label("vendor", "Keyfleet"),
        label("version", env!("CARGO_PKG_VERSION")),
        ("dev.keyfleet.base-packages".to_owned(), packages.to_owned()),
    ])
}

/// Compiles the released programs and returns the folder that they are in.
fn compile(profile: Profile) -> Result<PathBuf> {
    // As much of the workspace as may be: a part of it would build its dependencies with other features, and so build them
    // twice.
    let mut arguments = vec!["build", "--locked", "--workspace", "--bins"];
    arguments.extend(FOR_TESTS.iter().flat_map(|package| ["--exclude", *package]));
    step::run("Compiling the programs", "compile-programs", &mut profile.cargo(&arguments))?;
    Ok(profile.folder())
}

/// Compiles the programs with faults on demand, which have names of their own, beside what is compiled already.
fn compile_faulty(profile: Profile) -> Result<()> {
    let mut command = profile.cargo(&["build", "--locked", "--workspace", "--bin", "keyfleet-faulty-node"]);
    step::run("Compiling the node with faults for tests", "compile-faults", &mut command)
}

/// Returns true when a program was compiled with the fault feature.
fn knows_faults(program: &[u8]) -> bool {
    program.windows(FAULTS.len()).any(|window| window == FAULTS)
}

/// The folder of the programs that images are made of, and of those that people run.
pub(crate) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| workplace::checkout().join("target")).join("debug")
}

fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = workplace::cache().join(format!("stripping-{}", std::process::id()));
    let output = Command::new("strip")
        .args(["--strip-all", "--remove-section=.note.gnu.build-id", "-o"])
        .args([&copy, program])
        .output()
        .context("running strip, which comes with every C toolchain (Debian's package binutils)")?;
    ensure!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr).trim());
    let content = fs::read(&copy)?;
    fs::remove_file(copy)?;
    Ok(content)
}
