//! Reads what peers say: one stream per peer, kept open, and what is wanted by digest from whoever has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::channel;
use keyfleet_api::round_reader::{
    self, FETCH_TIMEOUT, Fetched, Heard, ProveError, ReportError, RoundReader, fetch_requests,
};
use keyfleet_api::tls::{CertificateError, Connector, Pins};
use keyfleet_threshold::feed::{Input, Turns};
use keyfleet_threshold::identifiers::{ClusterId, Digest, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::possession::Asked;
use keyfleet_threshold::round::Want;
use rand::Rng as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Addresses, PeerProofs, Rereads};
use crate::round::Published;
use crate::secret_rng::secret_rng;

/// The pause before a peer is called again; doubled up to the last after every failure.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// This node, as it shows itself to a peer that it follows.
#[derive(Clone)]
pub(super) struct Me {
    pub(super) cluster: ClusterId,
    pub(super) index: NodeIndex,
    pub(super) identity: Arc<IdentitySecretKey>,
    pub(super) pins: Pins,
    pub(super) proofs: Arc<PeerProofs>,
    pub(super) published: watch::Receiver<Arc<Published>>,
}

/// One follower per peer, as addresses come and go.
pub(super) async fn follow_all(
    me: Me,
    mut addresses: watch::Receiver<Addresses>,
    facts: mpsc::Sender<Input>,
    wanted: watch::Receiver<Vec<Want>>,
    rereads: watch::Receiver<Rereads>,
) {
    let mut running: BTreeMap<NodeIndex, (String, Follower)> = BTreeMap::new();
    loop {
        let now = addresses.borrow_and_update().clone();
        running.retain(|index, (address, _)| now.get(index) == Some(address));
        for (index, address) in now {
            if index == me.index || running.contains_key(&index) {
                continue;
            }
            let peers = addresses.clone();
            let of = (wanted.clone(), rereads.clone());
            let task = follow(me.clone(), index, address.clone(), peers, facts.clone(), of);
            running.insert(index, (address, Follower(tokio::spawn(task))));
        }
        if addresses.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Ends its task when dropped.
struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why the stream of a peer ended. It is opened again after a pause.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// The operator has not pinned the peer yet.
    #[error("the peer is not pinned yet")]
    NotPinned,
    /// This node's own certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The peer is away, or its address is wrong.
    #[error("{0:?}")]
    Connect(#[from] tonic::transport::Error),
    /// The peer refused, or went away.
    #[error(transparent)]
    Status(#[from] tonic::Status),
    /// The peer closed the stream.
    #[error("the peer closed the stream")]
    Closed,
    /// The peer is at fault: its report is not its own.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// This node stops.
    #[error("this node stops")]
    Stopping,
}

async fn follow(
    me: Me,
    peer: NodeIndex,
    address: String,
    peers: watch::Receiver<Addresses>,
    facts: mpsc::Sender<Input>,
    (wanted, mut rereads): (watch::Receiver<Vec<Want>>, watch::Receiver<Rereads>),
) {
    // A process reads every peer from the beginning: what it heard was in memory.
    let (mut reader, mut pause) = (None, PAUSE);
    let mut reread = times(peer, &rereads.borrow());
    loop {
        let before = reader.as_ref().map_or(0, RoundReader::position);
        let read = read_stream(&me, peer, &address, &peers, &facts, &wanted, &mut reader);
        let ended = tokio::select! {
            ended = read => Some(ended),
            times = times_above(reread, peer, &mut rereads) => {
                reread = times;
                None
            }
        };
        match ended {
            Some(Err(error)) => tracing::debug!(%peer, %error, "the stream ended"),
            Some(Ok(())) => {}
            None => reader = None,
        }
        let read = reader.as_ref().map_or(0, RoundReader::position);
        pause = if read > before { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

fn times(peer: NodeIndex, rereads: &Rereads) -> u64 {
    rereads.get(&peer).copied().unwrap_or(0)
}

/// Waits until the peer has to be read again from its first word more often than `before`. Returns how often.
async fn times_above(before: u64, peer: NodeIndex, rereads: &mut watch::Receiver<Rereads>) -> u64 {
    loop {
        let now = times(peer, &rereads.borrow_and_update());
        if now > before {
            return now;
        }
        if rereads.changed().await.is_err() {
            // The driver is gone: the node stops.
            std::future::pending::<()>().await;
        }
    }
}

/// Reads one stream of a peer until it ends, and fetches what is wanted by digest beside it.
async fn read_stream(
    me: &Me,
    peer: NodeIndex,
    address: &str,
    peers: &watch::Receiver<Addresses>,
    facts: &mpsc::Sender<Input>,
    wanted: &watch::Receiver<Vec<Want>>,
    reader: &mut Option<RoundReader>,
) -> Result<(), FollowError> {
    let pin = me.pins.get(peer).ok_or(FollowError::NotPinned)?;
    let connector = Connector::new(Some(&me.identity), pin)?;
    let channel = channel::connect(address.to_owned(), connector).await?;
    reader.take_if(|reader| *reader.pin() != pin);
    let reader = reader.get_or_insert_with(|| RoundReader::new(me.cluster, peer, pin));
    let mut stream = match round_reader::client(channel.clone()).follow(reader.request(&[])).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            reader.refused(&status);
            return Err(status.into());
        }
    };
    let mut wanted = wanted.clone();
    wanted.mark_changed();
    let (opened, mut turns) = (Instant::now(), Turns::new(me.index, peer));
    let (_open, mut asks) = (me.proofs.open(peer), me.proofs.asks());
    loop {
        let next = turns.next_ms().map_or(opened, |next_ms| opened + Duration::from_millis(next_ms));
        tokio::select! {
            item = stream.message() => {
                let item = item?.ok_or(FollowError::Closed)?;
                let input = match reader.take(item)? {
                    Some(Heard::Row { blob, .. }) => Input::Blob(blob),
                    Some(Heard::Kept(shown)) => Input::Shown(peer, *shown),
                    Some(Heard::Report(_) | Heard::CaughtUp) | None => continue,
                };
                facts.send(input).await.map_err(|_| FollowError::Stopping)?;
            }
            changed = wanted.changed() => {
                changed.map_err(|_| FollowError::Stopping)?;
                let now = wanted.borrow_and_update().clone();
                let peers = peers.borrow().keys().copied().collect();
                turns.want(&now, &peers, ms_since(opened));
            }
            changed = asks.changed() => {
                changed.map_err(|_| FollowError::Stopping)?;
                prove(me, reader, &channel).await?;
            }
            () = tokio::time::sleep_until(next), if turns.next_ms().is_some() => {
                let due = turns.due(ms_since(opened));
                fetch(me, &channel, &due, facts).await?;
            }
        }
    }
}

/// Asks a peer what it holds. One that does not answer proves nothing, and is read on.
async fn prove(me: &Me, reader: &RoundReader, channel: &Channel) -> Result<(), FollowError> {
    let mut asked = Asked { challenge: [0; 32], at_ms: crate::clock::now_ms() };
    secret_rng().fill_bytes(&mut asked.challenge);
    let request = tonic::Request::new(reader.prove_request(&asked.challenge));
    match reader.prove(channel, request).await {
        Ok(report) => {
            let published = me.published.borrow().clone();
            me.proofs.answer(reader.claims(&report, asked), &published);
            Ok(())
        }
        Err(ProveError::Report(error)) => Err(error.into()),
        Err(error) => {
            tracing::debug!(%error, "a peer was asked what it holds");
            Ok(())
        }
    }
}

fn ms_since(opened: Instant) -> u64 {
    u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn fetch(me: &Me, channel: &Channel, wanted: &[Digest], facts: &mpsc::Sender<Input>) -> Result<(), FollowError> {
    for request in fetch_requests(me.cluster, wanted) {
        let mut request = tonic::Request::new(request);
        request.set_timeout(FETCH_TIMEOUT);
        let mut found = Fetched::ask(channel, request).await?;
        while let Some(blob) = found.next().await? {
            facts.send(Input::Blob(blob)).await.map_err(|_| FollowError::Stopping)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Words that a peer said before its plan was known here are said again, once for every time that some were dropped.
    #[tokio::test]
    async fn a_peer_is_read_again_when_its_early_words_were_dropped() {
        let node = |index| NodeIndex::new(index).unwrap();
        let (rereads, mut seen) = watch::channel(Rereads::new());
        let again = |peer| rereads.send_modify(|times| *times.entry(node(peer)).or_default() += 1);
        again(3);
        assert_eq!(times_above(0, node(2), &mut seen).now_or_never(), None, "another peer has to be read again");
        // Twice while its stream was closed.
        again(2);
        again(2);
        assert_eq!(times_above(0, node(2), &mut seen).now_or_never(), Some(2));
        assert_eq!(times_above(2, node(2), &mut seen).now_or_never(), None, "it is read again for ever");
    }
}
