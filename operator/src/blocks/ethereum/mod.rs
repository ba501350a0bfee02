//! Blocks of an Ethereum chain, over JSON-RPC (`eth_chainId`, `eth_getBlockByNumber`, `eth_blockNumber`).
//!
//! Whatever an endpoint sends is hostile until it is a number: answers are limited in size and time, redirects are not
//! followed, and the URL, which may hold an access key, is in no message.

use std::time::Duration;

use keyfleet_crds::cluster::schedule::Finality;
use serde_json::{Value, json};

use super::BlockError;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A block without transactions is some kilobytes; nothing that is asked for here is larger.
const ANSWER_MAX_BYTES: u64 = 1 << 20;

/// A chain behind one or more endpoints.
#[derive(Clone)]
pub struct Ethereum {
    agent: ureq::Agent,
    urls: Vec<String>,
    chain_id: u64,
    finality: Finality,
    confirmations: u32,
}

impl Ethereum {
    /// A source that asks `urls` in turn until one answers well.
    #[must_use]
    pub fn new(urls: Vec<String>, chain_id: u64, finality: Finality, confirmations: u32) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).build();
        Self { agent: config.into(), urls, chain_id, finality, confirmations }
    }

    fn ask_all(&self) -> Result<u64, BlockError> {
        let mut last = BlockError::Down("no URL is configured".into());
        for (at, url) in self.urls.iter().enumerate() {
            match self.ask(url) {
                Ok(block) => return Ok(block),
                Err(BlockError::Down(why)) => last = BlockError::Down(format!("endpoint {}: {why}", at + 1)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn ask(&self, url: &str) -> Result<u64, BlockError> {
        let found = quantity(&self.call(url, "eth_chainId", &json!([]))?, "eth_chainId")?;
        if found != self.chain_id {
            return Err(BlockError::OtherChain { found, expected: self.chain_id });
        }
        let tag = match self.finality {
            Finality::Finalized => "finalized",
            Finality::Safe => "safe",
            Finality::Latest => {
                let newest = quantity(&self.call(url, "eth_blockNumber", &json!([]))?, "eth_blockNumber")?;
                return Ok(newest.saturating_sub(u64::from(self.confirmations)));
            }
        };
        let block = self.call(url, "eth_getBlockByNumber", &json!([tag, false]))?;
        if block.is_null() {
            return Err(BlockError::Down(format!("it has no {tag} block yet")));
        }
        quantity(&block["number"], "the block's number")
    }

    fn call(&self, url: &str, method: &str, params: &Value) -> Result<Value, BlockError> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let body = serde_json::to_vec(&request).expect("a request is JSON");
        let sent = self.agent.post(url).header("content-type", "application/json").send(&body);
        let mut answer = sent.map_err(|error| BlockError::Down(without_url(&error)))?;
        let limited = answer.body_mut().with_config().limit(ANSWER_MAX_BYTES).read_to_vec();
        let bytes = limited.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => BlockError::Nonsense(format!("{method}: more than 1 MiB")),
            other => BlockError::Down(without_url(&other)),
        })?;
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|_| BlockError::Nonsense(format!("{method}: the answer is not JSON")))?;
        if let Some(error) = json.get("error").filter(|error| !error.is_null()) {
            let message: String = error["message"].as_str().unwrap_or("without a message").chars().take(200).collect();
            return Err(BlockError::Down(format!("{method} is refused: {message}")));
        }
        json.get("result").cloned().ok_or_else(|| BlockError::Nonsense(format!("{method}: neither result nor error")))
    }
}

#[async_trait::async_trait]
impl super::BlockSource for Ethereum {
    async fn newest(&self) -> Result<u64, BlockError> {
        let this = self.clone();
        let asked = tokio::task::spawn_blocking(move || this.ask_all()).await;
        asked.unwrap_or_else(|_| Err(BlockError::Down("asking was aborted".into())))
    }
}

/// A quantity as JSON-RPC writes it: `0x`, then hexadecimal digits without leading zeros.
fn quantity(value: &Value, what: &str) -> Result<u64, BlockError> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).filter(|digits| !digits.is_empty());
    let plain = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let parsed = plain.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    // Larger numbers do not fit the kinds, whose numbers JSON must carry exactly.
    parsed.filter(|number| *number < 1 << 53).ok_or_else(|| BlockError::Nonsense(format!("{what} is no number")))
}

/// An error's kind: its text may repeat the URL, and with it an access key.
fn without_url(error: &ureq::Error) -> String {
    match error {
        ureq::Error::StatusCode(code) => format!("HTTP status {code}"),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::HostNotFound => "the host name is not known".into(),
        ureq::Error::Io(error) => format!("the connection failed: {}", error.kind()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "TLS failed".into(),
        _ => "the request failed".into(),
    }
}

#[cfg(test)]
mod tests;
