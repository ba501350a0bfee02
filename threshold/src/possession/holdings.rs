//! Holdings of a node's peers, as far as they prove them: when they are asked, and what may be used of the answers.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claims;
use super::is_good;
use crate::identifiers::{Digest, EpochNumber, NodeIndex};

/// Milliseconds that peers have to answer. Whoever has not by then counts as not holding.
const ANSWER_MS: u64 = 10_000;
/// Milliseconds until peers are asked for the second time for the same epochs; doubled after every further time.
const AGAIN_MS: u64 = 5_000;
/// Most milliseconds between two times of asking: an epoch that too few hold costs little.
const AGAIN_MAX_MS: u64 = 60_000;

/// Memory of one node: which peers' streams are open, and what each proved when it was asked last.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// The peers whose streams are open. The end of a stream forgets all of its peer.
    peers: BTreeMap<NodeIndex, Option<Answer>>,
    asking: Asking,
}

#[derive(Clone, Debug)]
struct Answer {
    asked_ms: u64,
    held: BTreeSet<(EpochNumber, Digest)>,
}

#[derive(Clone, Debug, Default)]
enum Asking {
    /// Nothing is to be retired.
    #[default]
    Rests,
    /// Peers were asked and may still answer.
    Waits { of: BTreeSet<EpochNumber>, asked_ms: u64, pause_ms: u64 },
    /// The answers were used. The next time of asking is `next_ms`, should it not have been enough.
    Used { of: BTreeSet<EpochNumber>, next_ms: u64, pause_ms: u64 },
}

/// Next thing to do for epochs that are to be retired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Send every peer whose stream is open a fresh challenge now, and call again.
    Ask,
    /// Call again once a peer has answered or its stream has ended, at the latest at this time.
    Wait {
        /// The time.
        until_ms: u64,
    },
    /// Retire on these proofs.
    Use(Proofs),
    /// Nothing is to be retired.
    Rest,
}

/// Proofs that peers gave when they were asked once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proofs {
    asked_ms: u64,
    held: BTreeMap<(EpochNumber, Digest), BTreeSet<NodeIndex>>,
}

impl Holdings {
    /// The stream of a peer was opened. What it proved in an earlier one counts no more.
    pub fn connect(&mut self, peer: NodeIndex) {
        self.peers.insert(peer, None);
    }

    /// The stream of a peer ended: the node may be gone for good.
    pub fn disconnect(&mut self, peer: NodeIndex) {
        self.peers.remove(&peer);
    }

    /// Takes what a peer proved: of its claims, those that were judged good.
    pub fn answer(&mut self, claims: &Claims) {
        if let Some(answer) = self.peers.get_mut(&claims.prover()) {
            let held = claims.proven().map(|holding| (holding.number(), holding.vector())).collect();
            *answer = Some(Answer { asked_ms: claims.asked_ms(), held });
        }
    }

    /// Decides what to do next for the retirement of these epochs: peers are asked anew each time, and the answers used once.
    #[must_use]
    pub fn next(&mut self, of: &BTreeSet<EpochNumber>, now_ms: u64) -> Turn {
        if of.is_empty() {
            self.asking = Asking::Rests;
            return Turn::Rest;
        }
        match &self.asking {
            Asking::Waits { of: asked_of, asked_ms, pause_ms } if asked_of == of => {
                let (asked_ms, pause_ms) = (*asked_ms, *pause_ms);
                let until_ms = asked_ms.saturating_add(ANSWER_MS);
                let answered =
                    |answer: &Option<Answer>| answer.as_ref().is_some_and(|answer| answer.asked_ms >= asked_ms);
                if now_ms < until_ms && now_ms >= asked_ms && !self.peers.values().all(answered) {
                    return Turn::Wait { until_ms };
                }
                let next_ms = now_ms.saturating_add(pause_ms);
                let pause_ms = (pause_ms * 2).min(AGAIN_MAX_MS);
                self.asking = Asking::Used { of: of.clone(), next_ms, pause_ms };
                Turn::Use(self.proofs(asked_ms))
            }
            Asking::Used { of: used_for, next_ms, pause_ms } if used_for == of => {
                let (next_ms, pause_ms) = (*next_ms, *pause_ms);
                // A clock that went back by more than a pause begins anew.
                if now_ms < next_ms && next_ms - now_ms <= AGAIN_MAX_MS {
                    return Turn::Wait { until_ms: next_ms };
                }
                self.ask(of, pause_ms, now_ms)
            }
            _ => self.ask(of, AGAIN_MS, now_ms),
        }
    }

    fn ask(&mut self, of: &BTreeSet<EpochNumber>, pause_ms: u64, now_ms: u64) -> Turn {
        self.asking = Asking::Waits { of: of.clone(), asked_ms: now_ms, pause_ms };
        Turn::Ask
    }

    /// Collects what was proven over challenges sent at `since_ms` or later.
    fn proofs(&self, since_ms: u64) -> Proofs {
        let mut held: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (peer, answer) in &self.peers {
            for epoch in answer.iter().filter(|answer| answer.asked_ms >= since_ms).flat_map(|answer| &answer.held) {
                held.entry(*epoch).or_default().insert(*peer);
            }
        }
        Proofs { asked_ms: since_ms, held }
    }
}

impl Proofs {
    /// Returns the nodes that prove at `now_ms` to hold the epoch with this number and vector.
    #[must_use]
    pub fn holders(&self, number: EpochNumber, vector: &Digest, now_ms: u64) -> BTreeSet<NodeIndex> {
        if !is_good(self.asked_ms, now_ms) {
            return BTreeSet::new();
        }
        self.held.get(&(number, *vector)).cloned().unwrap_or_default()
    }
}
