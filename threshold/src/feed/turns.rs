//! Reading one peer: which of its rows count, and when it is asked for what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use crate::identifiers::{Digest, NodeIndex};
use crate::round::{Blob, Want};

/// Milliseconds between the first requests for one blob to one peer and to the next.
const TURN_MS: u64 = 100;
/// Milliseconds until a peer is asked for the second time for what is still wanted; doubled after every further time.
const ASK_AGAIN_MS: u64 = 1_000;
/// Most milliseconds between two requests for one blob to one peer: what nobody has costs little.
const ASK_AGAIN_MAX_MS: u64 = 60_000;

/// Says when one connected peer is asked for what is wanted.
///
/// Most peers have the same to give, so they are asked one after the other, and each node begins with another one. Each
/// connection has turns of its own: a peer that is away delays nobody. Times are milliseconds since any fixed moment.
#[derive(Debug)]
pub struct Turns {
    me: NodeIndex,
    peer: NodeIndex,
    due: BTreeMap<Digest, Due>,
}

/// Next request for one digest.
#[derive(Debug)]
struct Due {
    /// Place among what is wanted: what is wanted first is asked for first.
    rank: usize,
    at_ms: u64,
    /// Pause after that request.
    pause_ms: u64,
}

impl Turns {
    /// Begins with nothing wanted. `me` asks `peer`.
    #[must_use]
    pub fn new(me: NodeIndex, peer: NodeIndex) -> Self {
        Self { me, peer, due: BTreeMap::new() }
    }

    /// Takes over what is wanted now, in this order; what is no longer wanted is forgotten. `peers` are all that could be asked.
    pub fn want(&mut self, wants: &[Want], peers: &BTreeSet<NodeIndex>, now_ms: u64) {
        let mut before = std::mem::take(&mut self.due);
        for (rank, want) in wants.iter().enumerate() {
            let at_ms = now_ms + self.place(peers, &want.digest) * TURN_MS;
            let due = before.remove(&want.digest).map(|known| Due { rank, ..known });
            self.due.entry(want.digest).or_insert(due.unwrap_or(Due { rank, at_ms, pause_ms: ASK_AGAIN_MS }));
        }
    }

    /// Returns when [`Turns::due`] has something next; `None` while nothing is wanted.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.due.values().map(|due| due.at_ms).min()
    }

    /// Returns the digests that the peer is to be asked for at this time, in the order in which they are wanted. It is asked again for each that is still wanted: a
    /// second later, then after pauses that double up to a minute. A new connection begins with the first pause.
    #[must_use]
    pub fn due(&mut self, now_ms: u64) -> Vec<Digest> {
        let due = self.due.iter_mut().filter(|(_, due)| due.at_ms <= now_ms);
        let mut ranked: Vec<_> = due
            .map(|(digest, due)| {
                due.at_ms = now_ms + due.pause_ms;
                due.pause_ms = (due.pause_ms * 2).min(ASK_AGAIN_MAX_MS);
                (due.rank, *digest)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, digest)| digest).collect()
    }

    /// The peer's place in the order in which this node asks for a blob.
    fn place(&self, peers: &BTreeSet<NodeIndex>, wanted: &Digest) -> u64 {
        let others = || peers.iter().filter(|index| **index != self.me);
        let (count, place) = (others().count().max(1), others().take_while(|index| **index < self.peer).count());
        let first = usize::from(wanted.0[0]) + usize::try_from(self.me.value()).unwrap_or(0);
        u64::try_from((place + first) % count).unwrap_or(0)
    }
}

/// Tells whether a row of `peer`'s stream says something of its own: nobody speaks in another's name, and vectors are only
/// given when asked for. Signatures are left to the participant.
#[must_use]
pub fn says_itself(row: &Blob, peer: NodeIndex) -> bool {
    match row {
        Blob::Message(message) => message.sender == peer,
        Blob::Vector(_) => false,
    }
}
