//! Answers to `Fetch`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::identifiers::{Digest, NodeIndex};
use crate::polynomial::VerificationVector;
use crate::round::{PersistentState, SignedMessage};

/// Where the answer to one digest is.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// A message of the node's own.
    Said(Arc<SignedMessage>),
    /// A vector that the node knows.
    Vector(VerificationVector),
    /// In the node's second file, if anywhere: what others said. [`is_handed_out`] says whether the node hands it out.
    Kept,
}

/// Returns where the answers are to the digests that a peer asks for.
///
/// `said` and `state` are what the node committed last: its own messages and the vectors that it knows.
#[must_use]
pub fn answer(
    wanted: &BTreeSet<Digest>,
    state: &PersistentState,
    said: &[Arc<SignedMessage>],
) -> BTreeMap<Digest, Answer> {
    let mut found: BTreeMap<_, _> = wanted.iter().map(|digest| (*digest, Answer::Kept)).collect();
    for message in said {
        if let Some(place) = found.get_mut(&message.digest()) {
            *place = Answer::Said(message.clone());
        }
    }
    for vector in state.vectors() {
        if let Some(place) = found.get_mut(&vector.digest()) {
            *place = Answer::Vector(vector.clone());
        }
    }
    found
}

/// Tells whether node `own` hands out the message whose canonical bytes it keeps under `digest` in its second file. Nothing but
/// the sender is read: the message was checked before it was kept, whoever fetches it checks it again, and to read the points of
/// all that one peer may ask for would keep the node from its work.
///
/// That file is ahead of the commit, so the node's own messages never come from there.
#[must_use]
pub fn is_handed_out(bytes: &[u8], digest: &Digest, own: NodeIndex) -> bool {
    let others = SignedMessage::sender_named_by(bytes).is_some_and(|sender| sender != own);
    others && SignedMessage::digest_of_bytes(bytes) == Some(*digest)
}
