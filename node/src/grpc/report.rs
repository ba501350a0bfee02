//! The report: what a node knows and holds, signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use keyfleet_api::v1;
use keyfleet_threshold::feed;
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use keyfleet_threshold::plan::PlanVersion;
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::serving::signature;

use crate::round::{Epochs, Published, ServedEpoch};

/// A caller's challenge, and what it was answered: a share's signature over it is always the same.
pub(crate) struct Challenge {
    bytes: [u8; 32],
    proofs: BTreeMap<EpochNumber, Vec<u8>>,
}

impl Challenge {
    /// A challenge as it came.
    #[must_use]
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self { bytes, proofs: BTreeMap::new() }
    }

    fn answer(&mut self, cluster: ClusterId, prover: NodeIndex, number: EpochNumber, epoch: &ServedEpoch) -> Vec<u8> {
        let bytes = &self.bytes;
        let proof = self.proofs.entry(number).or_insert_with(|| {
            let purpose = Purpose::possession(cluster, number, prover, &epoch.certificate.vector, bytes);
            signature::sign(&purpose, &epoch.share).encode().to_vec()
        });
        proof.clone()
    }
}

/// Reports of what is published. Every stream asks at every change, so the last one is kept.
#[derive(Default)]
pub(crate) struct Reports(Mutex<Option<(Arc<Published>, v1::Report)>>);

impl Reports {
    /// The report, but for its sequence number and the time. `challenge` is answered with every share that is held.
    #[must_use]
    pub(crate) fn of(
        &self,
        published: &Arc<Published>,
        served: &Epochs,
        challenge: Option<&mut Challenge>,
        identity: &IdentityPublicKey,
    ) -> Option<v1::Report> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, published)) {
            *last = Some((published.clone(), report(published, identity)?));
        }
        let mut report = last.as_ref().map(|(_, report)| report.clone())?;
        drop(last);
        if let Some(challenge) = challenge {
            let state = published.state.as_ref()?;
            prove(&mut report, served, challenge, (state.cluster, state.index));
        }
        Some(report)
    }
}

fn prove(report: &mut v1::Report, served: &Epochs, challenge: &mut Challenge, owner: (ClusterId, NodeIndex)) {
    report.challenge = challenge.bytes.to_vec();
    for held in &mut report.held {
        let number = EpochNumber(held.number);
        if let Some(epoch) = served.held(number) {
            held.possession = challenge.answer(owner.0, owner.1, number, epoch);
        }
    }
}

/// The report without a challenge, a sequence number and the time.
#[must_use]
pub(crate) fn report(published: &Published, identity: &IdentityPublicKey) -> Option<v1::Report> {
    let (state, outbox) = (published.state.as_ref()?, published.outbox.as_ref()?);
    let facts = feed::Report::of(state);
    let held = facts.held.iter().map(|certificate| v1::HeldEpoch {
        number: certificate.number.0,
        plan_digest: certificate.plan.0.to_vec(),
        vector_digest: certificate.vector.0.to_vec(),
        possession: Vec::new(),
    });

    let node = |(index, pin): (&NodeIndex, &IdentityPublicKey)| v1::KnownNode {
        index: index.value(),
        identity_key: pin.0.to_vec(),
    };
    Some(v1::Report {
        cluster_id: state.cluster.0.to_vec(),
        node_index: state.index.value(),
        identity_key: identity.0.to_vec(),
        sequence: 0,
        lineage: outbox.lineage.to_vec(),
        highest_number: facts.highest.0,
        held: held.collect(),
        nodes: state.pins.iter().map(node).collect(),
        plan_versions: vec![PlanVersion::NEWEST.number().into()],
        version: env!("CARGO_PKG_VERSION").to_owned(),
        challenge: Vec::new(),
        made_at_ms: 0,
        prekeys: facts.prekeys.iter().map(accepted).collect(),
    })
}

fn accepted((index, prekey): (&NodeIndex, &SignedPrekey)) -> v1::AcceptedPrekey {
    v1::AcceptedPrekey {
        index: index.value(),
        number: prekey.number.0,
        public_key: prekey.key.encode().to_vec(),
        signature: prekey.signature.0.to_vec(),
    }
}

/// Numbers, dates and signs a report.
#[must_use]
pub(crate) fn sign(report: v1::Report, sequence: u64, identity: &IdentitySecretKey) -> v1::SignedReport {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let made_at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    keyfleet_api::report::sign(&v1::Report { sequence, made_at_ms, ..report }, identity)
}
