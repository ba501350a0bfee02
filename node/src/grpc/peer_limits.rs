//! Bounds of what one caller has open at a time, so that no caller takes the node away from the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use keyfleet_api::limits::{
    FETCH_CALLS_PER_CALLER_MAX, FOLLOW_STREAMS_PER_CALLER_MAX, OBSERVER_CALLS_MAX, PROVE_CALLS_PER_CALLER_MAX,
};
use keyfleet_threshold::identifiers::NodeIndex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Reader of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Caller {
    /// A pinned peer.
    Peer(NodeIndex),
    /// The operator.
    Operator,
    /// Whoever else a rule lets observe.
    Observer {
        /// Issuer of its token.
        issuer: String,
        /// Subject of its token.
        subject: String,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(index) => write!(f, "node {index}"),
            Self::Operator => f.write_str("the operator"),
            Self::Observer { issuer, subject } => write!(f, "`{subject}` of issuer `{issuer}`"),
        }
    }
}

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
            follow: PeerLimit::new(FOLLOW_STREAMS_PER_CALLER_MAX, "Follow streams"),
            fetch: PeerLimit::new(FETCH_CALLS_PER_CALLER_MAX, "Fetch calls"),
            prove: PeerLimit::new(PROVE_CALLS_PER_CALLER_MAX, "Prove calls"),
        }
    }
}

/// Bound of one kind of call, the same for each caller.
#[derive(Debug)]
pub(super) struct PeerLimit {
    most: usize,
    calls: &'static str,
    /// Callers that have a call open.
    free: Mutex<BTreeMap<Caller, Arc<Semaphore>>>,
    /// Places of all observers together: a rule may name any number of them.
    observers: Arc<Semaphore>,
}

/// A place of one call, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _observers: Option<OwnedSemaphorePermit>,
}

impl PeerLimit {
    fn new(most: usize, calls: &'static str) -> Self {
        Self { most, calls, free: Mutex::default(), observers: Arc::new(Semaphore::new(OBSERVER_CALLS_MAX)) }
    }

    /// Takes a place for one more call of a caller. The call ends when the place is dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`: the caller has as many open as it may, or all observers together have.
    pub(super) fn take(&self, caller: &Caller) -> Result<Place, Status> {
        let (most, calls) = (self.most, self.calls);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.retain(|_, places| places.available_permits() < most);
        let places = free.entry(caller.clone()).or_insert_with(|| Arc::new(Semaphore::new(most))).clone();
        let own = places.try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{caller} has {most} {calls} open here already: close one first"))
        })?;
        let observers = match caller {
            Caller::Observer { .. } => Some(self.observers.clone().try_acquire_owned().map_err(|_| {
                Status::resource_exhausted(format!(
                    "observers have {OBSERVER_CALLS_MAX} {calls} open here: try again later"
                ))
            })?),
            Caller::Peer(_) | Caller::Operator => None,
        };
        Ok(Place { _own: own, _observers: observers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn peer(index: u32) -> Caller {
        Caller::Peer(NodeIndex::new(index).unwrap())
    }

    fn observer(number: usize) -> Caller {
        Caller::Observer { issuer: "kubernetes".into(), subject: format!("auditor-{number}") }
    }

    /// A caller is refused one call too many with a sentence; another is not, and neither is the first once a call has ended.
    #[test]
    fn a_peer_has_a_bounded_number_of_calls() {
        let limits = PeerLimits::default();
        let take = |caller: &Caller| limits.fetch.take(caller);
        let mut open: Vec<_> = (0..FETCH_CALLS_PER_CALLER_MAX).map(|_| take(&peer(2)).unwrap()).collect();
        let refused = take(&peer(2)).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "node 2 has 8 Fetch calls open here already: close one first");
        assert!(take(&peer(3)).is_ok(), "one peer's calls close the door to another");
        assert!(limits.follow.take(&peer(2)).is_ok(), "calls of one kind count for another");
        open.pop();
        assert!(take(&peer(2)).is_ok(), "a call that ended still counts");
    }

    /// Whoever has a token is bounded as a peer is, and all who only observe together leave room for peers and the operator.
    #[test]
    fn readers_by_token_have_a_bounded_number_of_calls() {
        let limits = PeerLimits::default();
        let take = |caller: &Caller| limits.follow.take(caller);
        let mut open: Vec<_> = (0..FOLLOW_STREAMS_PER_CALLER_MAX).map(|_| take(&Caller::Operator).unwrap()).collect();
        assert_eq!(take(&Caller::Operator).unwrap_err().code(), Code::ResourceExhausted, "the operator has no bound");
        for number in 0..OBSERVER_CALLS_MAX {
            open.push(take(&observer(number / FOLLOW_STREAMS_PER_CALLER_MAX)).unwrap());
        }
        let refused = take(&observer(0)).unwrap_err();
        let bounded = "`auditor-0` of issuer `kubernetes` has 4 Follow streams open here already: close one first";
        assert_eq!(refused.message(), bounded);
        let refused = take(&observer(OBSERVER_CALLS_MAX)).unwrap_err();
        assert_eq!(refused.message(), "observers have 64 Follow streams open here: try again later");
        assert!(take(&peer(2)).is_ok(), "observers close the door to peers");
        drop(open);
        assert!(take(&observer(0)).is_ok(), "streams that ended still count");
        assert_eq!(limits.follow.free.lock().unwrap().len(), 1, "callers without an open stream are remembered");
    }
}
