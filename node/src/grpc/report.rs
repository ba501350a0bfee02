//! The report: what a node knows and holds, signed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use keyfleet_api::limits::REPORTED_VERDICTS_MAX;
use keyfleet_api::report::sign;
use keyfleet_api::v1;
use keyfleet_threshold::curve::SecretScalar;
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber};
use keyfleet_threshold::identity::{IdentityKey, IdentityPublicKey};
use keyfleet_threshold::plan::PlanVersion;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::round::{PersistentState, Verdict};
use keyfleet_threshold::serving::signature;

use crate::round::outbox::Outbox;
use crate::round::{Epochs, Published};

/// A caller's challenge, and what it was answered: a share's signature over it is always the same.
pub struct Challenge {
    bytes: [u8; 32],
    proofs: BTreeMap<EpochNumber, Vec<u8>>,
}

impl Challenge {
    /// A challenge as it came.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self { bytes, proofs: BTreeMap::new() }
    }

    fn answer(&mut self, cluster: ClusterId, number: EpochNumber, share: &SecretScalar) -> Vec<u8> {
        let purpose = || Purpose::possession(cluster, number, &self.bytes);
        self.proofs.entry(number).or_insert_with(|| signature::sign(&purpose(), share).encode().to_vec()).clone()
    }
}

/// Makes the report of what is published. `challenge` is answered with every share that is held.
#[must_use]
pub fn report(
    published: &Published,
    served: &Epochs,
    challenge: Option<&mut Challenge>,
    sequence: u64,
    identity: &IdentityKey,
) -> Option<v1::SignedReport> {
    let (state, outbox) = (published.state.as_ref()?, published.outbox.as_ref()?);
    let report = unsigned(state, outbox, published, served, challenge, sequence, &identity.public());
    Some(sign(&report, identity))
}

fn unsigned(
    state: &PersistentState,
    outbox: &Outbox,
    published: &Published,
    served: &Epochs,
    mut challenge: Option<&mut Challenge>,
    sequence: u64,
    identity: &IdentityPublicKey,
) -> v1::Report {
    let held = state.attempts.iter().rev().filter_map(|(number, attempt)| {
        let (certificate, true) = (attempt.certificate()?, attempt.holds_share) else { return None };
        let asked = challenge.as_mut().zip(served.held(*number));
        let possession = asked.map(|(challenge, epoch)| challenge.answer(state.cluster, *number, &epoch.share));
        Some(v1::HeldEpoch {
            number: number.0,
            plan_digest: certificate.plan.0.to_vec(),
            vector_digest: certificate.vector.0.to_vec(),
            possession: possession.unwrap_or_default(),
        })
    });
    let held: Vec<_> = held.collect();
    let verdicts = state.attempts.iter().rev().filter_map(|(number, attempt)| {
        let (outcome, vector) = match attempt.verdict? {
            Verdict::Active(certificate) => (v1::verdict::Outcome::Active, certificate.vector.0.to_vec()),
            Verdict::Failed => (v1::verdict::Outcome::Failed, Vec::new()),
        };
        let plan_digest = attempt.plan.digest().0.to_vec();
        Some(v1::Verdict { number: number.0, outcome: outcome.into(), plan_digest, vector_digest: vector })
    });
    let newest = state.attempts.iter().rev().find_map(|(number, attempt)| {
        let (certificate, vector) = (attempt.certificate()?, attempt.vector.as_ref()?);
        Some(v1::Certificate {
            number: number.0,
            plan: attempt.plan.encode(),
            // The frozen fields have no public encoding yet; their digest is in every `Prepared`.
            frozen: Vec::new(),
            verification_vector: vector.commitments().iter().map(|point| point.encode().to_vec()).collect(),
            signature: certificate.signature.encode().to_vec(),
        })
    });
    let offers = published.offers.iter().filter_map(|offer| {
        let set = offer.verify(identity)?;
        Some(v1::OfferedSet { number: set.number.0, digest: set.digest().0.to_vec(), last_resort: set.last_resort })
    });
    let node = |(index, pin): (&keyfleet_threshold::identifiers::NodeIndex, &IdentityPublicKey)| v1::KnownNode {
        index: index.value(),
        identity_key: pin.0.to_vec(),
        volume_handle: String::new(),
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    v1::Report {
        cluster_id: state.cluster.0.to_vec(),
        node_index: state.index.value(),
        identity_key: identity.0.to_vec(),
        sequence,
        lineage: outbox.lineage.to_vec(),
        highest_number: state.highest.0,
        roster_sequence: 0,
        highest_boundary: state.attempts.values().map(|attempt| attempt.plan.block.0).max().unwrap_or(0),
        verdicts: verdicts.take(REPORTED_VERDICTS_MAX).collect(),
        newest_certificate: newest,
        held,
        nodes: state.pins.iter().map(node).collect(),
        plan_versions: vec![PlanVersion::V1.number().into()],
        prekey_sets: offers.collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        challenge: challenge.map(|challenge| challenge.bytes.to_vec()).unwrap_or_default(),
        made_at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}
