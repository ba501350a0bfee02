//! Streams of the nodes: everything that they said to this process, for the controllers.
//!
//! Controllers never wait for a node. Streams are followed behind the trait [`Nodes`], and what comes in wakes them.
//!
//! - `followers`: one task per node that keeps its stream (`Round.Follow`) open
//! - [`token`]: the operator's tokens, by which nodes know it
//!
//! [`keyfleet_planner::view`] judges the streams.

mod followers;
pub mod token;

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use keyfleet_crds::values::{ClusterId, PinnedKey, PublicKey};
use keyfleet_planner::view::{StreamView, Watched};

pub use followers::Followers;

/// A node to be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Host name and port.
    pub address: String,
    /// The pinned identity that its certificate must show.
    pub identity: PinnedKey,
}

/// Follows the nodes of clusters and remembers what they say.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// Follows exactly these nodes of a cluster from now on. Returns at once.
    fn follow(&self, cluster: ClusterId, targets: BTreeMap<u32, Target>);

    /// Forgets a cluster that is no more.
    fn forget(&self, cluster: ClusterId);

    /// Returns what the nodes have said until now, with the core's decisions on `rounds` as their records stand.
    /// Certificates count that verify under `key`; before there is a key, under any.
    async fn view(&self, cluster: ClusterId, key: Option<PublicKey>, rounds: Vec<Watched>) -> StreamView;

    /// Asks every node of a cluster whose stream is open for fresh proofs of what it holds. Returns at once.
    fn ask(&self, cluster: ClusterId);

    /// The clusters of which something new was heard. One reader.
    fn notifications(&self) -> BoxStream<'static, ClusterId>;
}

/// Follows nobody: for tests of what an operator does while no node has spoken.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    fn follow(&self, _: ClusterId, _: BTreeMap<u32, Target>) {}

    fn forget(&self, _: ClusterId) {}

    fn ask(&self, _: ClusterId) {}

    async fn view(&self, _: ClusterId, _: Option<PublicKey>, _: Vec<Watched>) -> StreamView {
        StreamView::default()
    }

    fn notifications(&self) -> BoxStream<'static, ClusterId> {
        stream::pending().boxed()
    }
}
