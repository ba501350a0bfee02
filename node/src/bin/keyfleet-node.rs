//! `keyfleet-node run --config /etc/keyfleet/node.yaml`

use std::process::ExitCode;

use keyfleet_node::program::Program;

#[tokio::main]
async fn main() -> ExitCode {
    Program::default().run().await
}
