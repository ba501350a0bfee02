//! What the controllers need of the nodes: everything they said to this process.
//!
//! The nodes' streams (`Round.Follow` over TLS by pin and token) are followed behind this trait; controllers never wait for
//! a node. [`transcripts`] keeps the streams' content: messages in, the core's decisions out.

pub mod transcripts;

use std::collections::BTreeMap;

use keyfleet_crds::values::{ClusterId, IdentityKey};

use crate::decide::state::Heard;

pub use transcripts::Transcripts;

/// A node to be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its host name and port.
    pub address: String,
    /// The pinned identity that its certificate must show.
    pub identity: IdentityKey,
}

/// Follows the nodes of clusters and remembers what they say.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// Follows exactly these nodes of a cluster from now on. Returns at once.
    fn follow(&self, cluster: ClusterId, targets: BTreeMap<u32, Target>);

    /// What they have said until now, with the core's decisions on `rounds` as their records stand.
    async fn heard(&self, cluster: ClusterId, rounds: Vec<transcripts::Watched>) -> Heard;
}

/// Follows nobody: for an operator that only keeps objects, while the nodes' streams are not to be had. No round is ever
/// started by it, since nobody is connected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

#[async_trait::async_trait]
impl Nodes for Nobody {
    fn follow(&self, _: ClusterId, _: BTreeMap<u32, Target>) {}

    async fn heard(&self, _: ClusterId, _: Vec<transcripts::Watched>) -> Heard {
        Heard::default()
    }
}
