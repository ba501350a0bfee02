//! Facts that a client must know of a fleet.

use std::collections::BTreeMap;

use keyfleet_api::wire::FleetRecord;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentityPublicKey;

/// The public facts of a fleet. False facts would encrypt data to somebody else's key: take them from the cluster's record,
/// and compare the public key where it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fleet {
    /// The cluster's id: token audiences name it.
    pub cluster: ClusterId,
    /// The public key. It never changes.
    pub public_key: G2,
    /// Threshold when the record was written. The certificate of each epoch has the one that counts.
    pub threshold: Threshold,
    /// The nodes that hold a share, with their pins.
    pub nodes: BTreeMap<NodeIndex, IdentityPublicKey>,
}

/// A record from which no client can be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A field holds no valid value.
    #[error("the fleet's record: {0}; take the record from the ConfigMap CLUSTER-record again")]
    Field(&'static str),
    /// There are fewer nodes than must answer together.
    #[error("the fleet's record names {nodes} nodes and a threshold of {threshold}")]
    TooFewNodes {
        /// Number of nodes in the record.
        nodes: usize,
        /// The threshold in the record.
        threshold: u16,
    },
}

impl TryFrom<&FleetRecord> for Fleet {
    type Error = FleetError;

    fn try_from(record: &FleetRecord) -> Result<Self, FleetError> {
        let mut nodes = BTreeMap::new();
        for node in &record.nodes {
            let index = NodeIndex::new(node.index).ok_or(FleetError::Field("a node has index 0"))?;
            nodes.insert(index, IdentityPublicKey(node.identity_key.0));
        }
        let threshold = u16::try_from(record.threshold).map_err(|_| FleetError::Field("the threshold is too large"))?;
        if threshold == 0 || nodes.len() < usize::from(threshold) {
            return Err(FleetError::TooFewNodes { nodes: nodes.len(), threshold });
        }
        let public_key = G2::decode(&record.public_key.0);
        Ok(Self {
            cluster: ClusterId(record.cluster_id.0),
            public_key: public_key.map_err(|_| FleetError::Field("the public key is not a point of BLS12-381's G2"))?,
            threshold: Threshold(threshold),
            nodes,
        })
    }
}
