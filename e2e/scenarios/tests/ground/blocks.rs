//! The development chain.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::namespace::Namespace;
use keyfleet_scenarios::probe::Probe;
use serde_json::{Value, json};

/// seed: 001-19
#[test]
fn blocks_are_mined_on_demand_and_finality_follows() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = Namespace::create(&cluster, "blocks")?;
    let client = Probe::install(&namespace, "client", &["volume.enabled=false"])?;
    let call = |method: &str, params: Value| -> Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let answer = client.ask(&["fetch", "http://chain.keyfleet-dev.svc:8545/", "--post", &request])?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        Ok(answer["result"].clone())
    };
    let height = |tag: &str| -> Result<u64> {
        let block = call("eth_getBlockByNumber", json!([tag, false]))?;
        let number = block["number"].as_str().with_context(|| format!("no {tag} block"))?;
        Ok(u64::from_str_radix(number.trim_start_matches("0x"), 16)?)
    };
    let before = height("latest")?;
    call("anvil_mine", json!(["0x5"]))?;
    let after = height("latest")?;
    ensure!(after == before + 5, "five blocks were asked for, and the chain went from {before} to {after}");
    let finalized = height("finalized")?;
    ensure!(finalized + 2 >= after, "finality is at {finalized}, more than two blocks behind {after}");
    Ok(())
}
