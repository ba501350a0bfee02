//! The ConfigMap `<cluster>-record`: what outlives the `KmsCluster`, and what callers read.
//!
//! It has two keys. `record.json` is the whole record, for the operator that adopts a fleet. `client.json` is the part that
//! callers need: cluster id, public key, threshold, indexes and pins. Both begin with their format's version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::epoch::status::{Certificate, FrozenDealer, FrozenResponse, Holder};
use crate::epoch::{KeyEpochSpec, RoundKind};
use crate::values::{ClusterId, Digest, PinnedKey, PublicKey};

/// Format of [`RECORD_KEY`] that this release writes; it reads no other. The second holds plans of the second version.
pub const RECORD_FORMAT: u32 = 2;
/// Format of [`CLIENT_KEY`] that this release writes; it reads no other.
pub const CLIENT_FORMAT: u32 = 1;
/// The ConfigMap's key for the whole record.
pub const RECORD_KEY: &str = "record.json";
/// The ConfigMap's key for callers.
pub const CLIENT_KEY: &str = "client.json";

/// Everything that outlives a `KmsCluster`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The public key, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The number that the next attempt takes.
    pub next_number: u64,
    /// The index that the next node takes.
    pub next_index: u64,
    /// The newest boundary that was processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_processed_boundary: Option<u64>,
    /// Every node that may hold a share, ascending by index.
    pub nodes: Vec<RecordedNode>,
    /// The newest certified epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<CertifiedEpoch>,
}

/// A node in the record.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedNode {
    /// Index of the node.
    pub index: u32,
    /// Pinned identity key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<PinnedKey>,
    /// Handle of the node's volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_handle: Option<String>,
    /// True while the node is being removed.
    #[serde(default)]
    pub removed: bool,
    /// Where its replica stood when the record was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// Where a replica stood.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Position {
    /// The writer's term.
    pub term: u64,
    /// The newest acknowledged sequence number.
    pub sequence: u64,
    /// The hash of that object.
    pub hash: Digest,
}

/// A plan with its frozen record and certificate: all that is needed to check an epoch.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertifiedEpoch {
    /// The plan.
    pub plan: KeyEpochSpec,
    /// The plan's digest.
    pub plan_digest: Digest,
    /// Frozen dealers.
    pub dealers: Vec<FrozenDealer>,
    /// Frozen answers.
    pub responses: Vec<FrozenResponse>,
    /// Qualified dealers.
    pub qualified: Vec<u32>,
    /// Holders at activation.
    pub holders: Vec<Holder>,
    /// The vector's digest.
    pub vector_digest: Digest,
    /// The certificate.
    pub certificate: Certificate,
}

/// Everything that callers need.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientRecord {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id: token audiences name it.
    pub cluster_id: ClusterId,
    /// The public key.
    pub public_key: PublicKey,
    /// Number of nodes that answer together.
    pub threshold: u32,
    /// The nodes that hold a share, ascending by index.
    pub nodes: Vec<ClientNode>,
}

/// A node as callers see it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientNode {
    /// Index of the node.
    pub index: u32,
    /// The identity key that its certificate must show.
    pub identity_key: PinnedKey,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The ConfigMap lacks a key.
    #[error("the ConfigMap has no key {0:?}: it is not a Keyfleet record; restore it from a backup")]
    Missing(&'static str),
    /// Another release wrote it.
    #[error("{key} has format {found}, this release reads {known}: use the release that wrote it, or a newer one")]
    Format {
        /// The ConfigMap's key.
        key: &'static str,
        /// The format found.
        found: u64,
        /// The format that this release reads.
        known: u32,
    },
    /// The text does not parse.
    #[error("{key} is not a record: {source}; restore the ConfigMap from a backup")]
    Invalid {
        /// The ConfigMap's key.
        key: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
}

impl Record {
    /// The ConfigMap's data: the record, and for callers their part as soon as there is a key.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let client = self.client().map(|client| (CLIENT_KEY.to_owned(), write(&client, CLIENT_FORMAT)));
        [(RECORD_KEY.to_owned(), write(self, RECORD_FORMAT))].into_iter().chain(client).collect()
    }

    /// The record in a ConfigMap's data.
    ///
    /// # Errors
    /// When the key is missing, of another format, or malformed.
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, RecordError> {
        read(data, RECORD_KEY, RECORD_FORMAT)
    }

    /// The callers' part; none before there is a key.
    #[must_use]
    pub fn client(&self) -> Option<ClientRecord> {
        let epoch = self.epoch.as_ref()?;
        Some(ClientRecord {
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id,
            public_key: self.public_key?,
            threshold: epoch.plan.threshold,
            nodes: epoch
                .plan
                .receivers
                .iter()
                .map(|receiver| ClientNode { index: receiver.index, identity_key: receiver.identity_key })
                .collect(),
        })
    }

    /// Returns true where this record shows that a key was ever generated: genesis is refused then.
    #[must_use]
    pub fn forbids_genesis(&self) -> bool {
        self.public_key.is_some() || self.epoch.as_ref().is_some_and(|epoch| epoch.plan.kind == RoundKind::Reshare)
    }
}

impl ClientRecord {
    /// The callers' part in a ConfigMap's data.
    ///
    /// # Errors
    /// When the key is missing (no key was generated yet), of another format, or malformed.
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, RecordError> {
        read(data, CLIENT_KEY, CLIENT_FORMAT)
    }
}

fn write(value: &impl Serialize, format: u32) -> String {
    let mut json = serde_json::to_value(value).expect("records have text keys only");
    if let Value::Object(fields) = &mut json {
        fields.insert("format".into(), format.into());
    }
    format!("{json:#}")
}

fn read<T: for<'de> Deserialize<'de>>(
    data: &BTreeMap<String, String>,
    key: &'static str,
    known: u32,
) -> Result<T, RecordError> {
    let invalid = |source| RecordError::Invalid { key, source };
    let text = data.get(key).ok_or(RecordError::Missing(key))?;
    let mut json: Value = serde_json::from_str(text).map_err(invalid)?;
    let format = json.as_object_mut().and_then(|fields| fields.remove("format")).and_then(|format| format.as_u64());
    match format.unwrap_or(0) {
        found if found == u64::from(known) => serde_json::from_value(json).map_err(invalid),
        found => Err(RecordError::Format { key, found, known }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let fixture = include_str!("../fixtures/record-v2.json");
        Record::from_data(&BTreeMap::from([(RECORD_KEY.to_owned(), fixture.to_owned())])).unwrap()
    }

    /// The frozen bytes: a change here is a new format, not a new fixture.
    #[test]
    fn a_record_is_written_as_the_fixture_says() {
        assert_eq!(record().to_data()[RECORD_KEY].trim(), include_str!("../fixtures/record-v2.json").trim());
    }

    /// seed: 001-47
    #[test]
    fn callers_get_the_receivers_of_the_certified_epoch() {
        let record = record();
        let client = ClientRecord::from_data(&record.to_data()).unwrap();
        assert_eq!(client.public_key, record.public_key.unwrap());
        assert_eq!(client.nodes.iter().map(|node| node.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn before_there_is_a_key_callers_get_nothing() {
        let unborn = Record { public_key: None, epoch: None, ..record() };
        assert!(!unborn.forbids_genesis());
        let error = ClientRecord::from_data(&unborn.to_data()).unwrap_err();
        assert!(matches!(error, RecordError::Missing(CLIENT_KEY)), "{error}");
    }

    #[test]
    fn another_format_or_an_unknown_field_is_refused() {
        let with = |key: &str, value: Value| {
            let mut json: Value = serde_json::from_str(include_str!("../fixtures/record-v2.json")).unwrap();
            json[key] = value;
            Record::from_data(&BTreeMap::from([(RECORD_KEY.to_owned(), json.to_string())])).unwrap_err()
        };
        assert!(matches!(with("format", 1.into()), RecordError::Format { found: 1, .. }), "a plan of version 1");
        assert!(matches!(with("format", Value::Null), RecordError::Format { found: 0, .. }));
        assert!(matches!(with("surprise", 1.into()), RecordError::Invalid { .. }));
    }
}
