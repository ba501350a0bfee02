//! Program that scenarios run in pods. Its image has no shell, so scenarios look at a pod's surroundings through this
//! program: over HTTP from other pods, or as a command through `kubectl exec`.

mod ask;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Look at a cluster from inside a pod
#[derive(Parser)]
#[command(name = "probe")]
enum Command {
    /// Serve HTTP until told to end: /, /volume (GET, PUT), /resolve/NAME, /fetch?url=URL, /exit
    Serve {
        /// The address to listen on
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        /// The folder that /volume reads and writes
        #[arg(long, default_value = "/volume")]
        volume: PathBuf,
    },
    /// Print the addresses of a name
    Resolve {
        /// The name
        name: String,
    },
    /// Print what a URL answers
    Fetch {
        /// The URL, http or https
        url: String,
        /// A file with the authority that https is checked against (default: the cluster's)
        #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")]
        authority: PathBuf,
        /// A file with a token to show
        #[arg(long)]
        token: Option<PathBuf>,
        /// JSON to send; without it nothing is sent
        #[arg(long)]
        post: Option<String>,
    },
    /// Print the token that is projected into the pod
    Token {
        /// The file that it is in
        #[arg(default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Serve { listen, volume } => serve::run(listen, volume).map(|()| String::new()),
        Command::Resolve { name } => ask::resolve(&name),
        Command::Fetch { url, authority, token, post } => {
            ask::fetch(&url, &authority, token.as_deref(), post.as_deref())
        }
        Command::Token { file } => ask::token(&file),
    };
    match outcome {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
