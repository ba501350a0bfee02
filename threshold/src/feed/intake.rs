//! From an input to the participant, with what was heard too early and what the node's own file adds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRng;

use super::input::{Input, InputError};
use crate::identifiers::{Digest, NodeIndex};
use crate::prekey::SignedPrekeySet;
use crate::round::{Blob, Outputs, Participant};

/// Prekey sets kept of one node: all that it has on offer, and those that plans under way name.
const SETS_OF_A_NODE_MAX: usize = 8;

/// Feeds a participant. Keeps the newest prekey sets of every node, since peers offer them before a plan names them.
#[derive(Default)]
pub struct Intake {
    offers: BTreeMap<NodeIndex, VecDeque<(Digest, SignedPrekeySet)>>,
}

impl Intake {
    /// Gives `input` to the participant.
    ///
    /// # Errors
    /// Why it was not taken up.
    pub fn take(
        &mut self,
        input: &Input,
        participant: &mut Participant,
        rng: &mut impl CryptoRng,
    ) -> Result<Outputs, InputError> {
        Ok(match input {
            Input::Plan(plan) => participant.accept(plan.clone(), rng)?,
            Input::Record(number, record) => participant.observe(*number, record, rng)?,
            Input::Blob(blob) => {
                if let Blob::Prekeys(set) = blob {
                    self.hear_offer(set);
                }
                participant.learn(blob, rng)?
            }
            Input::Retire(number) => participant.retire(*number)?,
            Input::Abstain(block) => participant.abstain_through(*block),
        })
    }

    /// Gives the participant what it wants and the node already has: heard before its plan, or `kept` in its own file.
    ///
    /// Adds the outputs to `out`, also where an error ends it; `out` stays `None` where nothing was found.
    ///
    /// # Errors
    /// The first error of `kept`.
    pub fn recall<E>(
        &self,
        participant: &mut Participant,
        mut kept: impl FnMut(&Digest) -> Result<Option<Blob>, E>,
        rng: &mut impl CryptoRng,
        out: &mut Option<Outputs>,
    ) -> Result<(), E> {
        let mut tried = BTreeSet::new();
        loop {
            let next = participant.wants().into_iter().map(|want| want.digest).find(|want| !tried.contains(want));
            let Some(digest) = next else { return Ok(()) };
            tried.insert(digest);
            let (found, is_kept) = match self.offer(&digest) {
                Some(set) => (Some(Blob::Prekeys(set.clone())), false),
                None => (kept(&digest)?, true),
            };
            // What does not fit any more was kept for another round.
            let Some(Ok(mut outputs)) = found.map(|blob| participant.learn(&blob, rng)) else { continue };
            if is_kept {
                outputs.keep.retain(|blob| blob.digest() != digest);
            }
            out.get_or_insert_default().extend(outputs);
        }
    }

    fn hear_offer(&mut self, set: &SignedPrekeySet) {
        let sets = self.offers.entry(set.unverified().node).or_default();
        let digest = set.digest();
        if sets.iter().all(|(known, _)| *known != digest) {
            sets.push_back((digest, set.clone()));
            sets.drain(..sets.len().saturating_sub(SETS_OF_A_NODE_MAX));
        }
    }

    fn offer(&self, digest: &Digest) -> Option<&SignedPrekeySet> {
        self.offers.values().flatten().find(|(known, _)| known == digest).map(|(_, set)| set)
    }
}
