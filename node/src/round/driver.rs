//! Feeds a participant facts, one after the other.
//!
//! While a home or the replica does not take an output, the driver owes it: it takes no further fact in, so the participant
//! never runs ahead of what is durable by more than one step. Serving goes on from what was durable before.

use keyfleet_threshold::identifiers::{Block, EpochNumber};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::plan::Plan;
use keyfleet_threshold::round::{
    Blob, Contradiction, MessageFault, Notice, Outputs, Participant, Refusal, RetireFault, RoundRecord, Want,
};

use super::memory::{CarryFault, Memory};
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
pub enum DriveFault {
    /// Something is owed, or became so; the fact itself may be fed again.
    #[error(transparent)]
    Carry(#[from] CarryFault),
    /// The operator is at fault.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The operator is at fault.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// A peer is at fault, or the message comes out of turn.
    #[error(transparent)]
    Message(#[from] MessageFault),
    /// The epoch is kept.
    #[error(transparent)]
    Retire(#[from] RetireFault),
}

/// A participant and its memory.
pub struct Driver {
    participant: Participant,
    memory: Memory,
    identity: IdentityPublicKey,
    owed: Option<Outputs>,
    notices: Vec<Notice>,
}

impl Driver {
    /// Takes a started node over. Call [`Driver::settle`] to carry out what the start owes.
    #[must_use]
    pub fn new(started: Started) -> Self {
        let Started { participant, identity, memory, outputs, .. } = started;
        Self { participant, memory, identity, owed: Some(outputs), notices: Vec::new() }
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
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Carries out what is owed, if anything is.
    ///
    /// # Errors
    /// It is still owed.
    pub async fn settle(&mut self) -> Result<(), CarryFault> {
        if let Some(owed) = &self.owed {
            self.memory.carry_out(&self.participant, owed).await?;
            self.notices.append(&mut self.owed.take().map(|owed| owed.notices).unwrap_or_default());
        }
        Ok(())
    }

    /// Takes a fact in, and whatever the node's own file then adds to it.
    ///
    /// # Errors
    /// Why it was not taken up, or what is owed.
    pub async fn feed(&mut self, input: &Input) -> Result<(), DriveFault> {
        self.settle().await?;
        let outputs = self.take(input)?;
        self.owed = Some(outputs);
        self.settle().await?;
        self.recall().await
    }

    fn take(&mut self, input: &Input) -> Result<Outputs, DriveFault> {
        let rng = &mut rand::rng();
        Ok(match input {
            Input::Plan(plan) => self.participant.accept(plan.clone(), rng)?,
            Input::Record(number, record) => self.participant.observe(*number, record, rng)?,
            Input::Blob(blob) => self.participant.learn(blob, rng)?,
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

    /// Compares the homes; for the clock that calls every few minutes.
    ///
    /// # Errors
    /// When a home does not answer.
    pub async fn compare(&mut self) -> Result<(), CarryFault> {
        self.settle().await?;
        self.memory.compare().await.map(|_| ())
    }

    /// Gives the participant what it wants and the node's own file has.
    async fn recall(&mut self) -> Result<(), DriveFault> {
        let mut tried = Vec::new();
        loop {
            let next = self.participant.wants().into_iter().find(|want| !tried.contains(want));
            let Some(want) = next else { return Ok(()) };
            tried.push(want);
            let Some(blob) = self.memory.bundles().get(&want.digest).map_err(CarryFault::Store)? else { continue };
            // What does not fit any more was kept for another round.
            let learnt = self.participant.learn(&blob, &mut rand::rng());
            if let Ok(outputs) = learnt {
                self.owed = Some(outputs);
                self.settle().await?;
            }
        }
    }
}

#[cfg(any(test, feature = "danger-faults"))]
impl Driver {
    /// Sets the barrier of the order of durability.
    pub fn danger_set_barrier(&mut self, barrier: super::memory::Barrier) {
        self.memory.danger_set_barrier(barrier);
    }
}
