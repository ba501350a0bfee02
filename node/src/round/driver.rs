//! Feeds a participant facts, one after the other.
//!
//! While a key store or the replica does not take an output, the driver owes it: it takes no further fact in, so the participant
//! never runs ahead of what is durable by more than one step. Serving goes on from what was durable before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyfleet_threshold::identifiers::{Block, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::plan::Plan;
use keyfleet_threshold::prekey::SignedPrekeySet;
use keyfleet_threshold::round::{
    Blob, Contradiction, MessageError, Notice, Outputs, Participant, Refusal, RetireError, RoundRecord, Want,
};

use super::persist::{PersistError, Persister};
use super::start::Started;

/// A fact.
#[derive(Clone, Debug)]
pub enum Input {
    /// A plan appeared.
    Plan(Plan),
    /// The record of a round, as it reads now.
    Record(EpochNumber, RoundRecord),
    /// A peer said or gave something.
    Blob(Blob),
    /// The record says that an epoch is retired.
    Retire(EpochNumber),
    /// The node was restored from its replica while this was the newest block.
    Abstain(Block),
}

/// Why a fact was not taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// Something is owed, or became so; the fact itself may be fed again.
    #[error(transparent)]
    Carry(#[from] PersistError),
    /// The operator is at fault.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The operator is at fault.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// A peer is at fault, or the message comes out of turn.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The epoch is kept.
    #[error(transparent)]
    Retire(#[from] RetireError),
}

/// A participant and its memory.
pub struct Driver {
    participant: Participant,
    persister: Persister,
    identity: IdentityPublicKey,
    owed: Option<Outputs>,
    notices: Vec<Notice>,
    offers: Offers,
}

/// Prekey sets that were heard before a plan names them: each node's newest.
#[derive(Default)]
struct Offers(BTreeMap<NodeIndex, VecDeque<(Digest, SignedPrekeySet)>>);

impl Offers {
    /// As many as a node has on offer, and those of plans under way.
    const OF_A_NODE: usize = 8;

    fn hear(&mut self, set: &SignedPrekeySet) {
        let sets = self.0.entry(set.unverified().node).or_default();
        let digest = set.digest();
        if sets.iter().all(|(known, _)| *known != digest) {
            sets.push_back((digest, set.clone()));
            sets.drain(..sets.len().saturating_sub(Self::OF_A_NODE));
        }
    }

    fn get(&self, digest: &Digest) -> Option<Blob> {
        self.0.values().flatten().find(|(known, _)| known == digest).map(|(_, set)| Blob::Prekeys(set.clone()))
    }
}

impl Driver {
    /// Takes a started node over. Call [`Driver::settle`] to carry out what the start owes.
    #[must_use]
    pub fn new(started: Started) -> Self {
        let Started { participant, identity, persister, outputs, .. } = started;
        Self { participant, persister, identity, owed: Some(outputs), notices: Vec::new(), offers: Offers::default() }
    }

    /// The protocol machine, to read.
    #[must_use]
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    /// The identity that this node offers.
    #[must_use]
    pub fn identity(&self) -> IdentityPublicKey {
        self.identity
    }

    /// The memory, to read.
    #[must_use]
    pub fn persister(&self) -> &Persister {
        &self.persister
    }

    /// Carries out what is owed, if anything is.
    ///
    /// # Errors
    /// It is still owed.
    pub async fn settle(&mut self) -> Result<(), PersistError> {
        if let Some(owed) = &self.owed {
            self.persister.apply(&self.participant, owed).await?;
            self.notices.append(&mut self.owed.take().map(|owed| owed.notices).unwrap_or_default());
        }
        Ok(())
    }

    /// Takes a fact in, and whatever the node's own file then adds to it.
    ///
    /// # Errors
    /// Why it was not taken up, or what is owed.
    pub async fn feed(&mut self, input: &Input) -> Result<(), DriveError> {
        self.feed_all(std::slice::from_ref(input)).await?.pop().map_or(Ok(()), |(_, fault)| Err(fault))
    }

    /// Takes facts in that came together, in their order, and makes durable at once what they lead to: a process that dies
    /// on the way has said nothing of it.
    ///
    /// Returns which of them were not taken up, and why.
    ///
    /// # Errors
    /// What is owed; the facts may be fed again.
    pub async fn feed_all(&mut self, inputs: &[Input]) -> Result<Vec<(usize, DriveError)>, PersistError> {
        self.settle().await?;
        let mut faults = Vec::new();
        for (place, input) in inputs.iter().enumerate() {
            match self.take(input) {
                Ok(outputs) => self.owe(outputs),
                Err(fault) => faults.push((place, fault)),
            }
        }
        self.settle().await?;
        self.recall()?;
        self.settle().await?;
        Ok(faults)
    }

    fn owe(&mut self, outputs: Outputs) {
        match &mut self.owed {
            Some(owed) => owed.extend(outputs),
            None => self.owed = Some(outputs),
        }
    }

    fn take(&mut self, input: &Input) -> Result<Outputs, DriveError> {
        let rng = &mut rand::rng();
        Ok(match input {
            Input::Plan(plan) => self.participant.accept(plan.clone(), rng)?,
            Input::Record(number, record) => self.participant.observe(*number, record, rng)?,
            Input::Blob(blob) => {
                if let Blob::Prekeys(set) = blob {
                    self.offers.hear(set);
                }
                self.participant.learn(blob, rng)?
            }
            Input::Retire(number) => self.participant.retire(*number)?,
            Input::Abstain(block) => self.participant.abstain_through(*block),
        })
    }

    /// What has to be fetched from peers.
    #[must_use]
    pub fn wants(&self) -> Vec<Want> {
        self.participant.wants()
    }

    /// What a person should hear of, since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Compares the key stores; for the clock that calls every few minutes.
    ///
    /// # Errors
    /// When a key store does not answer.
    pub async fn compare(&mut self) -> Result<(), PersistError> {
        self.settle().await?;
        self.persister.compare().await.map(|_| ())
    }

    /// Gives the participant what it wants and this node has: in its own file, or heard before there was a plan for it.
    fn recall(&mut self) -> Result<(), PersistError> {
        let mut tried = BTreeSet::new();
        loop {
            let next = self.participant.wants().into_iter().map(|want| want.digest).find(|want| !tried.contains(want));
            let Some(digest) = next else { return Ok(()) };
            tried.insert(digest);
            let heard = self.offers.get(&digest);
            let kept = || self.persister.bundles().get(&digest).map_err(PersistError::Store);
            let Some(blob) = heard.map_or_else(kept, |blob| Ok(Some(blob)))? else { continue };
            // What does not fit any more was kept for another round.
            if let Ok(outputs) = self.participant.learn(&blob, &mut rand::rng()) {
                self.owe(outputs);
            }
        }
    }
}

#[cfg(any(test, feature = "danger-faults"))]
impl Driver {
    /// Sets the barrier of the order of durability.
    pub fn danger_set_barrier(&mut self, barrier: super::persist::Barrier) {
        self.persister.danger_set_barrier(barrier);
    }
}
