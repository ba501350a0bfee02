//! Feeds a participant facts, one after the other.
//!
//! While a key store or the replica does not take an output, the driver owes it: it takes no further fact in, so the participant
//! never runs ahead of what is durable by more than one step. Serving goes on from what was durable before.

use std::collections::BTreeSet;

use keyfleet_threshold::feed::{Input, InputError, recall, take_all};
use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::round::{Notice, Outputs, Participant, Want};

use crate::keystores::decision::Finding;
use crate::secret_rng::secret_rng;

use super::persist::{PersistError, Persister};

/// Why a fact was not taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// Something is owed, or became so; the fact itself may be fed again.
    #[error(transparent)]
    Carry(#[from] PersistError),
    /// The participant refused it.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// A node that may be driven.
pub struct Started {
    pub participant: Participant,
    /// The node's identity, which the operator pins.
    pub identity: IdentityPublicKey,
    /// Writes what it remembers.
    pub persister: Persister,
    /// Owed: to be carried out first.
    pub outputs: Outputs,
    /// Findings for a person.
    pub findings: Vec<Finding>,
    /// True when the state came from the replica: then the node abstains in plans up to the newest block there is.
    pub restored: bool,
}

/// A participant and its persister.
pub struct Driver {
    participant: Participant,
    persister: Persister,
    identity: IdentityPublicKey,
    owed: Option<Outputs>,
    notices: Vec<Notice>,
}

impl Driver {
    /// Takes a started node over. Call [`Driver::settle`] to carry out what the start owes.
    #[must_use]
    pub fn new(started: Started) -> Self {
        let Started { participant, identity, persister, outputs, .. } = started;
        Self { participant, persister, identity, owed: Some(outputs), notices: Vec::new() }
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

    /// The persister, to read.
    #[must_use]
    pub fn persister(&self) -> &Persister {
        &self.persister
    }

    /// Carries out what is owed, if anything is.
    ///
    /// # Errors
    /// For outputs that are still owed.
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
        self.feed_all(std::slice::from_ref(input)).await?.pop().map_or(Ok(()), |(_, error)| Err(error.into()))
    }

    /// Takes facts in that came together, in their order, and makes durable at once what they lead to: a process that dies
    /// on the way has said nothing of it.
    ///
    /// Returns which of them were not taken up, and why.
    ///
    /// # Errors
    /// For outputs that are still owed; the facts may be fed again.
    pub async fn feed_all(&mut self, inputs: &[Input]) -> Result<Vec<(usize, InputError)>, PersistError> {
        self.settle().await?;
        let now_ms = crate::clock::now_ms();
        let errors = take_all(inputs, &mut self.participant, now_ms, &mut secret_rng(), &mut self.owed);
        self.settle().await?;
        self.recall()?;
        self.settle().await?;
        if self.participant.has_undated() {
            // Ages count from activations that are durable.
            let dated = self.participant.date(crate::clock::now_ms());
            self.owed.get_or_insert_default().extend(dated);
            self.settle().await?;
        }
        Ok(errors)
    }

    /// Returns the digests to fetch from peers.
    #[must_use]
    pub fn wants(&self) -> Vec<Want> {
        self.participant.wants()
    }

    /// Takes the peers that have to be read again from their first word, since the last call.
    pub fn take_rereads(&mut self) -> BTreeSet<NodeIndex> {
        self.participant.take_rereads()
    }

    /// Takes the notices for a person since the last call.
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

    /// Gives the participant what it wants and this node has.
    fn recall(&mut self) -> Result<(), PersistError> {
        let Self { participant, persister, owed, .. } = self;
        let bundles = persister.bundles();
        recall(participant, |digest| Ok(bundles.get(digest)?), &mut secret_rng(), owed)
    }
}

#[cfg(any(test, feature = "danger-faults"))]
impl Driver {
    /// Sets the barrier of the order of durability.
    pub fn danger_set_barrier(&mut self, barrier: super::persist::Barrier) {
        self.persister.danger_set_barrier(barrier);
    }
}
