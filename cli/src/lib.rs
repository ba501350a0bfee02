//! `keyfleet`, also installed as `kubectl-keyfleet`: look at fleets, encrypt, decrypt, sign, verify.
//!
//! - [`arguments`]: the commands and their options, as the help says them
//! - [`exit`]: exit codes
//! - [`completion`]: what kubectl's own completion asks
//! - [`cluster`]: kubeconfig, records, tokens and port-forwards: everything asked of the API server
//! - [`reach`]: from options to a client of a fleet
//! - [`files`]: input, output that is there whole or not at all, progress
//! - [`sealing`], [`signing`], [`public_key`], [`pod_volume`], [`epoch`]: the commands
//! - [`status`]: what a fleet's objects say, on one screen
//! - [`output`]: tables, JSON and YAML

pub mod arguments;
pub mod cluster;
pub mod completion;
pub mod epoch;
pub mod exit;
pub mod files;
pub mod output;
pub mod pod_volume;
pub mod public_key;
pub mod reach;
pub mod sealing;
pub mod signing;
pub mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use arguments::{Arguments, Command};
use exit::Failure;

/// The program: parses, runs, says what went wrong, and how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let called = called.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = Arguments::command();
    if called == "kubectl_complete-keyfleet" {
        let words: Vec<_> = std::env::args().skip(1).collect();
        print!("{}", completion::answer(&command, &words));
        return ExitCode::SUCCESS;
    }
    if called == "kubectl-keyfleet" {
        command = command.name("kubectl-keyfleet").bin_name("kubectl keyfleet");
    }
    let parsed = command.clone().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        // Help and version go to standard output and are no failure; clap's code for wrong usage is ours.
        Err(error) => error.exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Err(error) => Err(Failure::other(format!("the runtime does not start: {error}"))),
        Ok(runtime) => runtime.block_on(run(arguments, command)),
    };
    match ended {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.say();
            failure.exit.into()
        }
    }
}

async fn run(arguments: Arguments, command: clap::Command) -> Result<exit::Exit, Failure> {
    let kubernetes = &arguments.kubernetes;
    match arguments.command {
        Command::Status(status) => status::run(kubernetes, &status).await,
        Command::Encrypt(encrypt) => sealing::encrypt(kubernetes, &encrypt).await,
        Command::Decrypt(decrypt) => sealing::decrypt(kubernetes, &decrypt).await,
        Command::Sign(sign) => signing::sign(kubernetes, &sign).await,
        Command::Verify(verify) => signing::verify(kubernetes, &verify).await,
        Command::PublicKey(which) => public_key::run(kubernetes, &which).await,
        Command::PodVolume(which) => pod_volume::run(kubernetes, &which).await,
        Command::Epoch(arguments::Epoch::Verify(verify)) => epoch::verify(kubernetes, &verify).await,
        Command::Completion(completion) => {
            arguments::complete(&completion, command);
            Ok(exit::Exit::Done)
        }
    }
}
