//! `cargo xtask dev`: the local Kubernetes by hand.

use std::fs;
use std::path::PathBuf;
use std::process::Command as Process;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use keyfleet_local_kubernetes::cluster::{self, Access, State};
use keyfleet_local_kubernetes::layout::Layout;

use crate::image::{self, Built};
use crate::step::Step;
use crate::target::{self, Wanted};
use crate::workplace;

/// A real Kubernetes on this machine
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Bring a cluster up; one that is up is left as it is, what is left of a broken one is cleared away first
    Up(Up),
    /// Take a cluster down and leave nothing of it but its logs
    Down(Down),
    /// Say which clusters are there, and how to reach them
    Status,
    /// Print the path of a cluster's kubeconfig
    Kubeconfig(Name),
    /// Print the environment for your shell: eval "$(cargo xtask dev env)", then kubectl and helm
    Env(Name),
    /// Show a component's log; without a component, say which there are
    Logs(Logs),
    /// Build images and load them into a cluster that is up
    LoadImage(LoadImage),
}

#[derive(Args)]
pub(crate) struct Name {
    /// The cluster's name
    #[arg(long, default_value = "dev")]
    name: String,
}

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    name: Name,
    /// Number of nodes, 1 to 9
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Start an Ethereum development chain too; its blocks are mined on demand
    #[arg(long)]
    chain: bool,
}

#[derive(Args)]
pub(crate) struct Down {
    #[command(flatten)]
    name: Name,
    /// Every cluster
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(Args)]
pub(crate) struct Logs {
    /// The component, for example kubelet-1
    component: Option<String>,
    #[command(flatten)]
    name: Name,
    /// Go on showing what is added
    #[arg(long, short)]
    follow: bool,
}

#[derive(Args)]
pub(crate) struct LoadImage {
    /// An archive to load (default: build all images and load them)
    archive: Option<PathBuf>,
    #[command(flatten)]
    name: Name,
    /// Your own cluster, by its context in your kubeconfig, instead of a local one
    #[arg(long, conflicts_with = "name")]
    context: Option<String>,
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(arguments) => up(&arguments),
        Command::Down(arguments) => down(&arguments),
        Command::Status => status(),
        Command::Kubeconfig(name) => {
            println!("{}", access(&name.name)?.1.kubeconfig.display());
            Ok(())
        }
        Command::Env(name) => {
            let (layout, access) = access(&name.name)?;
            print!("{}", environment(&layout, &access));
            Ok(())
        }
        Command::Logs(arguments) => logs(&arguments),
        Command::LoadImage(arguments) => load_image(&arguments),
    }
}

fn up(arguments: &Up) -> Result<()> {
    let name = &arguments.name.name;
    target::up(&Wanted { name, nodes: arguments.nodes, chain: arguments.chain, images: &[] })?;
    let option = if name == "dev" { String::new() } else { format!(" --name {name}") };
    eprintln!("\nUse it:          eval \"$(cargo xtask dev env{option})\"\n                 kubectl get nodes");
    eprintln!("Take it down:    cargo xtask dev down{option}");
    Ok(())
}

fn down(arguments: &Down) -> Result<()> {
    let names = if arguments.all {
        cluster::names(&workplace::cluster_folders(PathBuf::new()).clusters)?
    } else {
        vec![arguments.name.name.clone()]
    };
    for name in names {
        let step = Step::begin(format!("Cluster {name}"));
        match cluster::down(&target::layout(&name)?) {
            Ok(was_there) => step.done(if was_there { "down" } else { "was not there" }),
            Err(error) => {
                step.failed();
                return Err(error);
            }
        }
    }
    Ok(())
}

fn status() -> Result<()> {
    let names = cluster::names(&workplace::cluster_folders(PathBuf::new()).clusters)?;
    if names.is_empty() {
        println!("no cluster; bring one up with: cargo xtask dev up");
    }
    for name in names {
        match cluster::state(&target::layout(&name)?)? {
            State::Up(access) => {
                println!(
                    "{name}: up, {} nodes\n  kubeconfig  {}\n  S3          {}",
                    access.nodes,
                    access.kubeconfig.display(),
                    access.s3
                );
                if let Some(chain) = access.chain {
                    println!("  chain       {chain}");
                }
            }
            State::Broken(why) => println!(
                "{name}: broken ({why}); `cargo xtask dev up --name {name}` or `… down --name {name}` clears it away"
            ),
            State::Absent => {}
        }
    }
    Ok(())
}

/// A cluster that is up, or an error that says how to bring it up.
fn access(name: &str) -> Result<(Layout, Access)> {
    let layout = target::layout(name)?;
    match cluster::state(&layout)? {
        State::Up(access) => Ok((layout, access)),
        State::Absent => bail!("the cluster {name} is not there: cargo xtask dev up --name {name}"),
        State::Broken(why) => bail!("the cluster {name} is broken ({why}): cargo xtask dev up --name {name}"),
    }
}

fn environment(layout: &Layout, access: &Access) -> String {
    let mut lines = String::new();
    for (key, value) in access.environment() {
        lines += &format!("export {key}='{value}'\n");
    }
    lines + &format!("export PATH='{}':\"$PATH\"\n", layout.at("bin").display())
}

fn logs(arguments: &Logs) -> Result<()> {
    let layout = target::layout(&arguments.name.name)?;
    let Some(component) = &arguments.component else {
        let entries =
            fs::read_dir(layout.logs()).with_context(|| format!("the cluster {} has no logs", layout.name))?;
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        println!("{}:", layout.logs().display());
        for name in names {
            println!("  {}", name.strip_suffix(".log").unwrap_or(&name));
        }
        return Ok(());
    };
    let file = layout.log(component);
    ensure!(file.exists(), "there is no log {}; `cargo xtask dev logs` says which there are", file.display());
    let mut tail = Process::new("tail");
    tail.args(["-n", "200"]).args(arguments.follow.then_some("-F")).arg(file);
    tail.status()?;
    Ok(())
}

fn load_image(arguments: &LoadImage) -> Result<()> {
    let images = match &arguments.archive {
        Some(archive) => {
            let archive = std::path::absolute(archive)?;
            vec![Built { name: archive.display().to_string(), archive, digest: String::new() }]
        }
        None => image::all(image::Profile::Dev)?,
    };
    for image in images {
        let step = Step::begin(format!("Loading {}", image.name));
        match &arguments.context {
            Some(context) => target::load(context, &image)?,
            None => cluster::load_image(&access(&arguments.name.name)?.0, &image.archive)?,
        }
        step.done("");
    }
    Ok(())
}
