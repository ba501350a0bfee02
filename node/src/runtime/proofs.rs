//! Proofs of what peers hold: between the followers, which ask them, and the task that retires epochs.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::possession::{Claims, Holdings, Proofs, Turn};
use tokio::sync::{Notify, watch};

use crate::clock::now_ms;
use crate::round::Published;

/// Proofs of the peers whose streams are open.
#[derive(Debug, Default)]
pub struct PeerProofs {
    holdings: Mutex<Holdings>,
    /// Number of times that peers were asked.
    asked: watch::Sender<u64>,
    /// Rings when a peer has answered or its stream has ended.
    heard: Notify,
}

/// An open stream of a peer. What the peer proved counts until this is dropped.
pub(super) struct Open<'a> {
    proofs: &'a PeerProofs,
    peer: NodeIndex,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.proofs.locked().disconnect(self.peer);
        self.proofs.heard.notify_one();
    }
}

impl PeerProofs {
    /// Asks the peers for the retirement of these epochs, when it is time to, and waits for what they prove. Waits for ever where
    /// nothing is to be retired. It may be dropped at any point and called again.
    pub async fn collect(&self, of: &BTreeSet<EpochNumber>) -> Proofs {
        loop {
            let turn = self.locked().next(of, now_ms());
            match turn {
                Turn::Ask => self.asked.send_modify(|times| *times += 1),
                Turn::Use(proofs) => return proofs,
                Turn::Wait { until_ms } => {
                    let left = Duration::from_millis(until_ms.saturating_sub(now_ms()));
                    // What rings in time is looked at; what does not has had its time.
                    let _ = tokio::time::timeout(left, self.heard.notified()).await;
                }
                Turn::Rest => return std::future::pending().await,
            }
        }
    }

    /// Counts the times that peers were asked, as they are.
    pub(super) fn asks(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// The stream of a peer was opened.
    pub(super) fn open(&self, peer: NodeIndex) -> Open<'_> {
        self.locked().connect(peer);
        Open { proofs: self, peer }
    }

    /// Takes a peer's claims, and verifies them by the certificates and vectors that this node knows.
    pub(super) fn answer(&self, mut claims: Claims, published: &Published) {
        let Some(state) = &published.state else { return };
        claims.judge(|number, prover| state.certified_share(number, prover));
        self.locked().answer(&claims);
        self.heard.notify_one();
    }

    fn locked(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
