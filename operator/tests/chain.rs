//! The Ethereum source against a real chain, blocks mined on demand.
//!
//! The environment variable `KEYFLEET_CHAIN_BIN` names the chain's program.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyfleet_crds::cluster::schedule::Finality;
use keyfleet_operator::blocks::ethereum::Ethereum;
use keyfleet_operator::blocks::{BlockError, BlockSource};
use serde_json::{Value, json};

struct Chain(Child);

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mine(url: &str, blocks: u64) {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": [format!("{blocks:#x}")] });
    let body = serde_json::to_vec(&request).expect("JSON");
    let mut answer = ureq::post(url).header("content-type", "application/json").send(&body).expect("the chain answers");
    let answer: Value = serde_json::from_slice(&answer.body_mut().read_to_vec().expect("a body")).expect("JSON");
    assert!(answer.get("error").is_none(), "mining failed: {answer}");
}

/// Blocks that a chain finalizes are seen and a dead chain is down.
#[tokio::test]
async fn finalized_blocks_are_seen_and_a_dead_chain_is_down() {
    let program = std::env::var_os("KEYFLEET_CHAIN_BIN")
        .expect("KEYFLEET_CHAIN_BIN is not set: run this with `cargo xtask test --only operator`");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--slots-in-an-epoch", "1", "--no-mining", "--silent"]);
    let mut chain = Chain(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the chain starts"));
    let url = format!("http://127.0.0.1:{port}");
    let source = |finality, confirmations| Ethereum::new(vec![url.clone()], 31_337, finality, confirmations);
    let latest = source(Finality::Latest, 0);
    let start = Instant::now();
    while latest.newest().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "the chain did not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(latest.newest().await, Ok(0));
    mine(&url, 10);
    assert_eq!(latest.newest().await, Ok(10));
    assert_eq!(source(Finality::Latest, 4).newest().await, Ok(6));
    let safe = source(Finality::Safe, 0).newest().await.expect("a safe block");
    let finalized = source(Finality::Finalized, 0).newest().await.expect("a finalized block");
    assert!(finalized <= safe && safe <= 10, "finalized {finalized}, safe {safe}, newest 10");
    assert!(finalized >= 7, "with one slot in an epoch finality lags a few blocks only: {finalized}");
    let other = Ethereum::new(vec![url.clone()], 1, Finality::Latest, 0).newest().await;
    assert_eq!(other, Err(BlockError::OtherChain { found: 31_337, expected: 1 }));
    chain.0.kill().expect("the chain can be ended");
    chain.0.wait().expect("the chain ends");
    assert!(matches!(latest.newest().await, Err(BlockError::Down(_))), "a dead chain is down");
}
