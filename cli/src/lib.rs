//! `keyfleet`, also installed as `kubectl-keyfleet`: a plugin of kubectl that shows fleets, encrypts, decrypts, signs, verifies.
//!
//! | Read | For |
//! |---|---|
//! | [`args`] | the commands and their options, as the help says them |
//! | [`status`], `encrypt`, `decrypt`, `sign`, `verify`, `public_key`, [`pod_volume`], `epoch`, `completion` | the commands, a module each |
//! | `connect` | from options to a client of a fleet |
//! | `kube_client`, `token_request`, `port_forward` | the API server: kubeconfig and records, tokens, connections to pods |
//! | `files` | input, output that appears whole or not at all, progress |
//! | [`output`] | tables, JSON and YAML |
//! | `exit` | exit codes and errors |
//!
//! Public is what the golden tests and the generator of `docs/keyfleet.md` use.

pub mod args;
mod completion;
mod connect;
mod decrypt;
mod encrypt;
mod epoch;
pub mod exit;
mod files;
mod kube_client;
pub mod output;
pub mod pod_volume;
mod port_forward;
mod public_key;
mod sign;
pub mod status;
mod token_request;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command, EpochCommand};
use exit::{CommandError, Exit};

/// Parses the command line, runs the command, prints its error. Returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let program = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = Cli::command();
    if program == "kubectl_complete-keyfleet" {
        let words: Vec<_> = std::env::args().skip(1).collect();
        print!("{}", completion::answer(&command, &words));
        return ExitCode::SUCCESS;
    }
    if program == "kubectl-keyfleet" {
        command = command.name("kubectl-keyfleet").bin_name("kubectl keyfleet");
    }
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version go to standard output and are no error; clap's exit code for wrong usage is ours.
        Err(error) => error.exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Err(error) => Err(CommandError::other(format!("the runtime does not start: {error}"))),
        Ok(runtime) => runtime.block_on(run(cli, command)),
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => {
            error.print();
            error.exit.into()
        }
    }
}

async fn run(cli: Cli, command: clap::Command) -> Result<Exit, CommandError> {
    let kube = &cli.kube;
    match &cli.command {
        Command::Status(args) => status::run(kube, args).await,
        Command::Encrypt(args) => encrypt::run(kube, args).await,
        Command::Decrypt(args) => decrypt::run(kube, args).await,
        Command::Sign(args) => sign::run(kube, args).await,
        Command::Verify(args) => verify::run(kube, args).await,
        Command::PublicKey(args) => public_key::run(kube, args).await,
        Command::PodVolume(args) => pod_volume::run(kube, args).await,
        Command::Epoch(EpochCommand::Verify(args)) => epoch::verify(kube, args).await,
        Command::Completion(args) => {
            completion::write_script(args, command);
            Ok(Exit::Done)
        }
    }
}
