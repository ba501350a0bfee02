//! What a client must know of a fleet.

use std::collections::BTreeMap;

use keyfleet_crds::record::ClientRecord;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentityPublicKey;

use keyfleet_crds::convert::{self, ConvertError};

/// The public facts of a fleet. Whoever hands over false ones decides whom data is encrypted to: take them from the
/// cluster's record, and compare the public key where it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fleet {
    /// The cluster's id: token audiences name it.
    pub cluster: ClusterId,
    /// The public key. It never changes.
    pub public_key: G2,
    /// How many nodes answer together, when this was written: each epoch's certificate says what counts.
    pub threshold: Threshold,
    /// The nodes that hold a share, with their pins.
    pub nodes: BTreeMap<NodeIndex, IdentityPublicKey>,
}

/// Facts that are none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A field holds no valid value.
    #[error("the cluster's record: {0}")]
    Field(#[from] ConvertError),
    /// There is nobody to ask.
    #[error("the cluster's record names {nodes} nodes and a threshold of {threshold}")]
    TooFewNodes {
        /// How many nodes it names.
        nodes: usize,
        /// The threshold.
        threshold: u16,
    },
}

impl TryFrom<&ClientRecord> for Fleet {
    type Error = FleetError;

    fn try_from(record: &ClientRecord) -> Result<Self, FleetError> {
        let node = |node: &keyfleet_crds::record::ClientNode| {
            Ok((convert::index(node.index)?, IdentityPublicKey(node.identity_key.0)))
        };
        let fleet = Self {
            cluster: ClusterId(record.cluster_id.0),
            public_key: convert::point(&record.public_key)?,
            threshold: convert::threshold(record.threshold, "threshold")?,
            nodes: record.nodes.iter().map(node).collect::<Result<_, ConvertError>>()?,
        };
        let (nodes, threshold) = (fleet.nodes.len(), fleet.threshold);
        if threshold.count() == 0 || nodes < threshold.count() {
            return Err(FleetError::TooFewNodes { nodes, threshold: threshold.0 });
        }
        Ok(fleet)
    }
}
