//! Everything that others may read of a node: made from the state that was committed last, never from the one in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyfleet_threshold::curve::SecretScalar;
use keyfleet_threshold::identifiers::{Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::prekey::SignedPrekey;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::round::{Attempt, Participant, PersistentState, SignedMessage};

use crate::store::{Outbox, OutboxRow};

/// Messages of a node's attempts, oldest attempt first, each with its attempt's number.
pub type Messages = Vec<(EpochNumber, Arc<SignedMessage>)>;

/// Returns the messages that a participant sends, as the protocol wants them.
pub(super) fn messages_of(participant: &Participant) -> Messages {
    let attempts = participant.state().attempts.iter();
    let messages = attempts.flat_map(|(number, attempt)| attempt.outbox.iter().map(|message| (*number, message)));
    messages.map(|(number, message)| (number, Arc::new(message.clone()))).collect()
}

/// Returns the outbox once these messages are committed: rows of what was dropped are gone, new ones are at the end.
pub(super) fn next_outbox(outbox: &Outbox, messages: &Messages) -> Outbox {
    let wanted = messages.iter().map(|(number, message)| OutboxRow { number: number.0, digest: message.digest() });
    let wanted: Vec<_> = wanted.collect();
    let mut next = outbox.clone();
    let still: BTreeSet<_> = wanted.iter().copied().collect();
    next.rows.retain(|_, row| still.contains(row));
    let present: BTreeSet<_> = next.rows.values().copied().collect();
    for row in wanted.into_iter().filter(|row| !present.contains(row)) {
        next.rows.insert(next.next, row);
        next.next += 1;
    }
    next
}

/// Data that peers and operator read.
#[derive(Clone, Default, Debug)]
pub struct Published {
    /// Messages of attempts that are under way or kept, oldest attempt first.
    pub messages: Vec<Arc<SignedMessage>>,
    /// The same by position.
    pub outbox: Option<Arc<Outbox>>,
    /// The state that was committed; `None` before the first commit of this process.
    pub state: Option<Arc<PersistentState>>,
    /// Ids of the key-encryption keys that what the node keeps still needs.
    pub needed_key_encryption_ids: BTreeSet<String>,
}

impl Published {
    pub(super) fn of(participant: &Participant, outbox: Outbox, messages: Messages) -> Self {
        let state = participant.state();
        Self {
            messages: messages.into_iter().map(|(_, message)| message).collect(),
            outbox: Some(Arc::new(outbox)),
            state: Some(Arc::new(state.clone())),
            needed_key_encryption_ids: BTreeSet::new(),
        }
    }

    /// Checks that each message has a row in the outbox that was committed: nothing is read by peers that the state file
    /// could forget.
    ///
    /// # Panics
    /// When one has none.
    pub(super) fn invariant_all_is_committed(&self, committed: &Outbox) {
        let rows: BTreeSet<Digest> = committed.rows.values().map(|row| row.digest).collect();
        for message in &self.messages {
            assert!(rows.contains(&message.digest()), "a message is published that was not committed");
        }
    }

    /// Returns the message of a row of the outbox.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<&SignedMessage> {
        self.messages.iter().find(|message| message.digest() == *digest).map(AsRef::as_ref)
    }

    /// Returns the prekey that the node shows: the newest whose secret is durable.
    #[must_use]
    pub fn prekey(&self) -> Option<&SignedPrekey> {
        self.state.as_ref()?.shown_prekey()
    }
}

/// The shares that a node holds. It serves with the active epoch's, and for a grace window with that of the one before; of
/// all it proves possession.
#[derive(Default)]
pub struct Epochs(BTreeMap<EpochNumber, Box<ServedEpoch>>);

/// An epoch whose share is held.
pub struct ServedEpoch {
    /// The node's share. Wiped when the last request that uses it is done.
    pub share: SecretScalar,
    /// The epoch's verification vector.
    pub vector: VerificationVector,
    pub certificate: Certificate,
    /// The epoch's receivers, ascending.
    pub receivers: Vec<NodeIndex>,
}

/// Number of epochs that are served.
const SERVED: usize = 2;

impl Epochs {
    pub(super) fn of(participant: &Participant) -> Self {
        let state = participant.state();
        let held = state.attempts.iter().filter(|(_, attempt)| attempt.certificate().is_some() && !attempt.erased);
        let mut epochs = BTreeMap::new();
        for (number, attempt) in held {
            let Some(epoch) = served(participant, *number, attempt) else { continue };
            epochs.insert(*number, epoch);
        }
        Self(epochs)
    }

    /// The newest epoch.
    #[must_use]
    pub fn newest(&self) -> Option<(EpochNumber, &ServedEpoch)> {
        self.0.last_key_value().map(|(number, epoch)| (*number, epoch.as_ref()))
    }

    /// Returns true when the newest of them is the newest active epoch that the node knows of. Without any it is not.
    #[must_use]
    pub fn are_current(&self, published: &Published) -> bool {
        // In an outage nothing is published after a start; what is served was active then.
        let heard = published.state.as_ref().and_then(|state| state.newest_certified()).map(|newest| newest.number);
        self.newest().is_some_and(|(number, _)| Some(number) >= heard)
    }

    /// The epochs that are served, newest first.
    pub fn iter(&self) -> impl Iterator<Item = (EpochNumber, &ServedEpoch)> {
        self.0.iter().rev().take(SERVED).map(|(number, epoch)| (*number, epoch.as_ref()))
    }

    /// One of the epochs that are served.
    #[must_use]
    pub fn get(&self, number: EpochNumber) -> Option<&ServedEpoch> {
        self.iter().find(|(served, _)| *served == number).map(|(_, epoch)| epoch)
    }

    /// Any epoch whose share is held, to prove that it is.
    #[must_use]
    pub fn held(&self, number: EpochNumber) -> Option<&ServedEpoch> {
        self.0.get(&number).map(AsRef::as_ref)
    }
}

/// Returns an epoch behind a pointer: a map, and the list that one is collected from, move what they hold and leave copies behind,
/// which nothing wipes.
fn served(participant: &Participant, number: EpochNumber, attempt: &Attempt) -> Option<Box<ServedEpoch>> {
    let (share, vector, certificate) = (participant.share(number)?, attempt.vector.clone()?, *attempt.certificate()?);
    let receivers = attempt.plan.receivers.iter().map(|receiver| receiver.index).collect();
    Some(Box::new(ServedEpoch { share: share.duplicate(), vector, certificate, receivers }))
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
