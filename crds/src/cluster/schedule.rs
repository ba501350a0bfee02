//! Blocks, boundaries and deadlines.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When the key is reshared.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "self.intervalBlocks > self.deadlines.dealingBlocks + self.deadlines.verifyingBlocks + self.deadlines.preparingBlocks \
     + self.deadlines.certifyingBlocks"
).message(
    "intervalBlocks is not longer than the four deadlines together: a round could reach into the next. Lengthen intervalBlocks \
     or shorten the deadlines"
))]
pub struct Schedule {
    /// Where blocks come from. Fixed when the cluster is made. Default: a clock with 12-second blocks.
    #[serde(default)]
    pub source: BlockSource,
    /// Blocks from one boundary to the next: a round starts at every finalized block that it divides. Default 50. Longer
    /// than the four deadlines together.
    #[serde(default = "interval_blocks")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub interval_blocks: u32,
    /// Longest time that each phase of a round waits for silent nodes, in blocks. Default: 2 each.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Seconds after which a phase closes even if no block came, since a chain can stand still. Default 120.
    #[serde(default = "phase_timeout_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub phase_timeout_seconds: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            source: BlockSource::default(),
            interval_blocks: interval_blocks(),
            deadlines: Deadlines::default(),
            phase_timeout_seconds: phase_timeout_seconds(),
        }
    }
}

/// Longest duration of each phase, in blocks from the block at which it was opened.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deadlines {
    /// Blocks for dealing: dealers send their bundles, receivers say which they have. Default 2.
    #[serde(default = "phase_blocks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub dealing_blocks: u32,
    /// Blocks for verifying: receivers check the frozen bundles. Default 2.
    #[serde(default = "phase_blocks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub verifying_blocks: u32,
    /// Blocks for preparing: receivers store their new shares durably. Default 2.
    #[serde(default = "phase_blocks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub preparing_blocks: u32,
    /// Blocks for certifying: holders sign with the new shares. Default 2.
    #[serde(default = "phase_blocks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub certifying_blocks: u32,
}

impl Default for Deadlines {
    fn default() -> Self {
        let blocks = phase_blocks();
        Self { dealing_blocks: blocks, verifying_blocks: blocks, preparing_blocks: blocks, certifying_blocks: blocks }
    }
}

impl Deadlines {
    /// All four together, in blocks.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        [self.dealing_blocks, self.verifying_blocks, self.preparing_blocks, self.certifying_blocks]
            .into_iter()
            .map(u64::from)
            .sum()
    }
}

/// Where blocks come from: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.clock) != has(self.ethereum)").message(
    "a source is one of clock and ethereum: set exactly one of them"
))]
pub struct BlockSource {
    /// A clock: block number = time since 1970-01-01T00:00:00Z divided by the block's length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// An Ethereum node, over JSON-RPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethereum: Option<Ethereum>,
}

impl Default for BlockSource {
    fn default() -> Self {
        Self { clock: Some(Clock { block_ms: block_ms() }), ethereum: None }
    }
}

/// Blocks by the clock.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clock {
    /// Length of a block in milliseconds. Default 12000.
    #[serde(default = "block_ms")]
    #[schemars(range(min = 100, max = 86_400_000))]
    pub block_ms: u32,
}

/// Blocks of an Ethereum chain.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.urls) != has(self.urlsSecret)").message(
    "an ethereum source needs urls, or urlsSecret where the URLs hold an access key: set exactly one of them"
))]
#[x_kube(validation = Rule::new("self.finality == 'Latest' || self.confirmations == 0").message(
    "confirmations are for finality Latest: finalized and safe blocks are already confirmed. Remove confirmations, or set \
     finality: Latest"
))]
pub struct Ethereum {
    /// The chain's id, compared with what the node answers (1: mainnet).
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub chain_id: u64,
    /// JSON-RPC endpoints, `http://` or `https://`, asked in turn when one is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 2048), regex(pattern = r"^https?://")))]
    pub urls: Option<Vec<String>>,
    /// A Secret in the operator's namespace, mounted into the operator, whose values are such URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub urls_secret: Option<String>,
    /// Blocks that count as final. Default `Finalized`.
    #[serde(default)]
    pub finality: Finality,
    /// With finality `Latest`: how many blocks must stand on top of one. Default 0.
    #[serde(default)]
    #[schemars(range(max = 100_000))]
    pub confirmations: u32,
}

/// Blocks that count as final.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Finality {
    /// Those that the chain has finalized.
    #[default]
    Finalized,
    /// Those that the chain calls safe.
    Safe,
    /// The newest, less the confirmations.
    Latest,
}

fn interval_blocks() -> u32 {
    50
}

fn phase_blocks() -> u32 {
    2
}

fn phase_timeout_seconds() -> u32 {
    120
}

fn block_ms() -> u32 {
    12_000
}
