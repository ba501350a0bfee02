//! Bounds of what one peer has open at a time, so that no peer takes the node away from the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use keyfleet_api::limits::{FETCH_CALLS_PER_PEER_MAX, FOLLOW_STREAMS_PER_PEER_MAX, PROVE_CALLS_PER_PEER_MAX};
use keyfleet_threshold::identifiers::NodeIndex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Bounds of the service `Round`.
#[derive(Debug)]
pub(crate) struct PeerLimits {
    pub(super) follow: PeerLimit,
    pub(super) fetch: PeerLimit,
    pub(super) prove: PeerLimit,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            follow: PeerLimit::new(FOLLOW_STREAMS_PER_PEER_MAX, "Follow streams"),
            fetch: PeerLimit::new(FETCH_CALLS_PER_PEER_MAX, "Fetch calls"),
            prove: PeerLimit::new(PROVE_CALLS_PER_PEER_MAX, "Prove calls"),
        }
    }
}

/// Bound of one kind of call, the same for each peer.
#[derive(Debug)]
pub(super) struct PeerLimit {
    most: usize,
    calls: &'static str,
    /// Only pinned peers have an entry.
    free: Mutex<BTreeMap<NodeIndex, Arc<Semaphore>>>,
}

impl PeerLimit {
    fn new(most: usize, calls: &'static str) -> Self {
        Self { most, calls, free: Mutex::default() }
    }

    /// Takes a place for one more call of a peer. The call ends when the place is dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: the peer has as many open as it may.
    pub(super) fn take(&self, peer: NodeIndex) -> Result<OwnedSemaphorePermit, Status> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let places = free.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(self.most))).clone();
        places.try_acquire_owned().map_err(|_| {
            let (most, calls) = (self.most, self.calls);
            Status::resource_exhausted(format!("node {peer} has {most} {calls} open here already: close one first"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    /// A peer is refused one call too many with a sentence; another peer is not, and neither is the first once a call has ended.
    #[test]
    fn a_peer_has_a_bounded_number_of_calls() {
        let (limits, index) = (PeerLimits::default(), |value| NodeIndex::new(value).unwrap());
        let mut open: Vec<_> = (0..FETCH_CALLS_PER_PEER_MAX).map(|_| limits.fetch.take(index(2)).unwrap()).collect();
        let refused = limits.fetch.take(index(2)).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "node 2 has 8 Fetch calls open here already: close one first");
        assert!(limits.fetch.take(index(3)).is_ok(), "one peer's calls close the door to another");
        assert!(limits.follow.take(index(2)).is_ok(), "calls of one kind count for another");
        open.pop();
        assert!(limits.fetch.take(index(2)).is_ok(), "a call that ended still counts");
    }
}
