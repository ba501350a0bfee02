//! Judging what nodes claim to hold. Pure.

use std::collections::BTreeMap;

use keyfleet_crds::convert;
use keyfleet_crds::epoch::status::Holder;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::possession::{CertifiedShare, Claims};

use super::{NodeState, Transcripts, Watched};

impl Transcripts {
    /// Judges what nodes claim to hold by the vectors that are known: of records, and of certificates under the fleet's key.
    pub(super) fn judge_claims(&mut self, rounds: &[Watched]) {
        let open = |said: &NodeState| said.claims.iter().chain(&said.answered).any(Claims::is_open);
        if !self.nodes.values().any(open) {
            return;
        }
        let mut shown: BTreeMap<u64, VerificationVector> = BTreeMap::new();
        for (certificate, _) in self.nodes.values().flat_map(|said| said.shown.certified()) {
            if let (false, Some(vector)) =
                (shown.contains_key(&certificate.number.0), self.shown_vectors.get(&certificate.vector))
            {
                shown.insert(certificate.number.0, vector.clone());
            }
        }
        let record = |number: u64| {
            let watched = rounds.iter().find(|watched| watched.spec.number == number)?;
            let status = watched.status.as_ref()?;
            status.certificate.as_ref()?;
            Some((Digest(status.vector_digest?.0), status.holders.as_deref().unwrap_or_default()))
        };
        let records: BTreeMap<u64, _> =
            rounds.iter().filter_map(|one| Some((one.spec.number, record(one.spec.number)?))).collect();
        let known = |number: EpochNumber, prover: NodeIndex| {
            let full = shown.get(&number.0).or_else(|| self.vectors.get(&number.0));
            match records.get(&number.0) {
                Some((vector, holders)) => {
                    let full = full.filter(|full| full.digest() == *vector);
                    let point = full.map(|full| full.public_share(prover)).or_else(|| recorded(holders, prover));
                    Some(CertifiedShare { vector: *vector, point })
                }
                // The record may lag behind the nodes, or have gone back in time.
                None => shown
                    .get(&number.0)
                    .map(|full| CertifiedShare { vector: full.digest(), point: Some(full.public_share(prover)) }),
            }
        };
        for said in self.nodes.values_mut() {
            said.claims.iter_mut().chain(&mut said.answered).for_each(|claims| claims.judge(known));
        }
    }
}

/// Returns a node's public share of an epoch that it held at activation, from the record.
fn recorded(holders: &[Holder], prover: NodeIndex) -> Option<G2> {
    let holder = holders.iter().find(|holder| holder.index == prover.value())?;
    convert::point(&holder.public_share).ok()
}
