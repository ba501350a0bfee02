//! The node with faults on demand: for the image `keyfleet/node-faults`, which scenarios run.

mod byzantine;
mod faults;

use std::process::ExitCode;

use keyfleet_node::config::Config;
use keyfleet_node::fault_injection::FaultInjection;
use keyfleet_node::program::Program;

use crate::faults::Faults;

#[tokio::main]
async fn main() -> ExitCode {
    Program { read_faults: Some(read_faults) }.run().await
}

fn read_faults(config: &Config) -> Result<Box<dyn FaultInjection>, Box<dyn std::error::Error>> {
    Ok(Box::new(Faults::read(|name| std::env::var(name).ok(), config.index, config.data())?))
}
