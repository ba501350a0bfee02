//! Answers to `Fetch`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::identifiers::Digest;
use crate::round::{Blob, PersistentState, SignedMessage};

/// Returns what a node hands out for the digests that a peer asks for; what it does not have is missing.
///
/// `said` and `state` are what the node committed last: its own messages and the vectors that it knows.
/// `kept` looks a digest up in the node's second file, which holds what others said. That file is ahead of the commit, so
/// the node's own messages never come from there.
#[must_use]
pub fn answer(
    wanted: &BTreeSet<Digest>,
    state: &PersistentState,
    said: &[Arc<SignedMessage>],
    mut kept: impl FnMut(&Digest) -> Option<Blob>,
) -> BTreeMap<Digest, Blob> {
    let own = |blob: &Blob| matches!(blob, Blob::Message(message) if message.sender == state.index);
    let messages = said.iter().map(|message| (message.digest(), message));
    let messages = messages.filter(|(digest, _)| wanted.contains(digest));
    let mut found: BTreeMap<_, _> =
        messages.map(|(digest, message)| (digest, Blob::Message(message.as_ref().clone()))).collect();
    let vectors = state.vectors().map(|vector| (vector.digest(), vector));
    let vectors = vectors.filter(|(digest, _)| wanted.contains(digest));
    found.extend(vectors.map(|(digest, vector)| (digest, Blob::Vector(vector.clone()))));
    for digest in wanted {
        if !found.contains_key(digest)
            && let Some(blob) = kept(digest).filter(|blob| !own(blob))
        {
            found.insert(*digest, blob);
        }
    }
    found
}
