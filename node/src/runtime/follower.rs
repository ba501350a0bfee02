//! Reads what peers say: one stream per peer, kept open, and what is wanted by digest from whoever has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::limits::FETCH_DIGESTS_MAX;
use keyfleet_api::v1;
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_threshold::curve::G2;
use keyfleet_threshold::identifiers::{ClusterId, Digest, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::round::{Blob, Want};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Addresses;
use crate::round::Input;
use keyfleet_api::tls::{Connector, Pins};
use keyfleet_api::{channel, messages, report};

/// The pause before a peer is called again; doubled up to the last after every failure.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is still wanted is asked for again so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// So much later the next peer is asked.
const TURN: Duration = Duration::from_millis(100);

/// Who follows.
#[derive(Clone)]
pub(super) struct Me {
    pub(super) cluster: ClusterId,
    pub(super) index: NodeIndex,
    pub(super) identity: Arc<IdentitySecretKey>,
    pub(super) pins: Pins,
}

/// One follower per peer, as addresses come and go.
pub(super) async fn follow_all(
    me: Me,
    mut addresses: watch::Receiver<Addresses>,
    facts: mpsc::Sender<Input>,
    wanted: watch::Receiver<Vec<Want>>,
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
            let task = follow(me.clone(), index, address.clone(), peers, facts.clone(), wanted.clone());
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

/// Where a reader of one peer is.
#[derive(Default)]
struct Place {
    position: u64,
    lineage: Vec<u8>,
    /// The vector of the newest certificate that the peer showed.
    shown: Option<Shown>,
}

/// A vector as a report shows it. Reports come often and points are costly to check: they are read when they are wanted.
struct Shown {
    digest: Digest,
    points: Vec<Vec<u8>>,
}

impl Shown {
    fn of(report: v1::Report) -> Option<Self> {
        let certificate = report.newest_certificate?;
        let verdict = report.verdicts.iter().find(|verdict| verdict.number == certificate.number)?;
        Some(Self { digest: messages::digest(&verdict.vector_digest)?, points: certificate.verification_vector })
    }

    /// A node that joins learns the source's vector from any peer; its digest is in the plan.
    fn wanted(&self, wants: &[Want]) -> Option<Blob> {
        wants.iter().find(|want| want.digest == self.digest)?;
        let points = self.points.iter().map(|point| G2::decode(point.as_slice().try_into().ok()?).ok());
        VerificationVector::new(points.collect::<Option<_>>()?).ok().map(Blob::Vector)
    }
}

async fn follow(
    me: Me,
    peer: NodeIndex,
    address: String,
    peers: watch::Receiver<Addresses>,
    facts: mpsc::Sender<Input>,
    wanted: watch::Receiver<Vec<Want>>,
) {
    // A process reads every peer from the beginning: what it heard was in memory.
    let (mut place, mut pause) = (Place::default(), PAUSE);
    loop {
        let before = place.position;
        if let Err(reason) = once(&me, peer, &address, &peers, &facts, &wanted, &mut place).await {
            tracing::debug!(%peer, reason, "the stream ended");
        }
        pause = if place.position > before { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

async fn once(
    me: &Me,
    peer: NodeIndex,
    address: &str,
    peers: &watch::Receiver<Addresses>,
    facts: &mpsc::Sender<Input>,
    wanted: &watch::Receiver<Vec<Want>>,
    place: &mut Place,
) -> Result<(), String> {
    let pin = me.pins.get(peer).ok_or("it is not pinned")?;
    let connector = Connector::new(Some(&me.identity), pin).map_err(|fault| fault.to_string())?;
    let channel = channel::connect(address.to_owned(), connector).await.map_err(|error| format!("{error:?}"))?;
    let mut client = RoundClient::new(channel.clone());
    let request = v1::FollowRequest {
        cluster_id: me.cluster.0.to_vec(),
        after_position: place.position,
        lineage: place.lineage.clone(),
        challenge: Vec::new(),
    };
    let mut stream = match client.follow(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            if matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::OutOfRange) {
                *place = Place::default();
            }
            return Err(status.to_string());
        }
    };
    let mut wanted = wanted.clone();
    wanted.mark_changed();
    // When this peer is asked for what is wanted.
    let mut turns: BTreeMap<Digest, Instant> = BTreeMap::new();
    loop {
        let next = turns.values().min().copied().unwrap_or_else(Instant::now);
        tokio::select! {
            item = stream.message() => {
                let item = item.map_err(|status| status.to_string())?.ok_or("it closed the stream")?;
                let blob = match item.item {
                    Some(v1::follow_item::Item::Row(row)) => {
                        place.position = row.position;
                        said(&row, peer, &pin)
                    }
                    Some(v1::follow_item::Item::Report(signed)) => {
                        let report = report::verified(&signed, &pin).ok_or("its report is not signed by it")?;
                        place.lineage.clone_from(&report.lineage);
                        place.shown = Shown::of(report);
                        place.shown.as_ref().and_then(|shown| shown.wanted(&wanted.borrow()))
                    }
                    Some(v1::follow_item::Item::CaughtUp(_)) | None => None,
                };
                let Some(blob) = blob else { continue };
                facts.send(Input::Blob(blob)).await.map_err(|_| "this node stops")?;
            }
            changed = wanted.changed() => {
                changed.map_err(|_| "this node stops")?;
                let now = wanted.borrow_and_update().clone();
                if let Some(vector) = place.shown.as_ref().and_then(|shown| shown.wanted(&now)) {
                    facts.send(Input::Blob(vector)).await.map_err(|_| "this node stops")?;
                }
                turns.retain(|digest, _| now.iter().any(|want| want.digest == *digest));
                for want in now {
                    turns.entry(want.digest).or_insert_with(|| Instant::now() + turn(me, peer, peers, &want.digest));
                }
            }
            () = tokio::time::sleep_until(next), if !turns.is_empty() => {
                let now = Instant::now();
                let due: Vec<_> = turns.iter().filter(|(_, turn)| **turn <= now).map(|(digest, _)| *digest).collect();
                turns.extend(due.iter().map(|digest| (*digest, now + ASK_AGAIN)));
                fetch(me, &channel, &due, facts).await?;
            }
        }
    }
}

/// What a row gives the participant: the peer's own words. Signatures of messages are the participant's to check.
fn said(row: &v1::OutboxRow, peer: NodeIndex, pin: &IdentityPublicKey) -> Option<Blob> {
    messages::read_row(row).filter(|blob| match blob {
        Blob::Prekeys(set) => set.verify(pin).is_some_and(|set| set.node == peer),
        Blob::Message(message) => message.sender == peer,
        Blob::Vector(_) => false,
    })
}

/// How long this peer waits for its turn: most peers have the same to give, so that one is asked after the other, and each
/// node begins with another one.
fn turn(me: &Me, peer: NodeIndex, peers: &watch::Receiver<Addresses>, wanted: &Digest) -> Duration {
    let peers = peers.borrow();
    let others = || peers.keys().filter(|index| **index != me.index);
    let (count, place) = (others().count().max(1), others().take_while(|index| **index < peer).count());
    let first = usize::from(wanted.0[0]) + usize::try_from(me.index.value()).unwrap_or(0);
    TURN * u32::try_from((place + first) % count).unwrap_or(0)
}

async fn fetch(me: &Me, channel: &Channel, wanted: &[Digest], facts: &mpsc::Sender<Input>) -> Result<(), String> {
    for wanted in wanted.chunks(FETCH_DIGESTS_MAX) {
        let request = v1::FetchRequest {
            cluster_id: me.cluster.0.to_vec(),
            digests: wanted.iter().map(|digest| digest.0.to_vec()).collect(),
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(10));
        let stream = RoundClient::new(channel.clone()).fetch(request).await;
        let mut stream = stream.map_err(|status| status.to_string())?.into_inner();
        while let Some(item) = stream.message().await.map_err(|status| status.to_string())? {
            // What was not asked for is dropped.
            let asked = |blob: &Blob| wanted.contains(&blob.digest());
            if let Some(blob) = messages::read_found(&item).filter(asked) {
                facts.send(Input::Blob(blob)).await.map_err(|_| "this node stops")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::round::{Body, SignedMessage};

    use super::*;

    #[test]
    fn a_peer_is_heard_in_its_own_name_alone() {
        let (peer, other) = (NodeIndex::new(2).unwrap(), NodeIndex::new(3).unwrap());
        let key = IdentitySecretKey::from_seed(&[2; 32]);
        let row = |sender| {
            let message = SignedMessage::sign(Digest([1; 32]), sender, Body::Erased, &key);
            let said = v1::outbox_row::Said::Message(messages::message(&message));
            v1::OutboxRow { position: 1, number: 1, said: Some(said) }
        };
        assert!(said(&row(peer), peer, &key.public()).is_some(), "its own words are dropped");
        assert!(
            said(&row(other), peer, &key.public()).is_none(),
            "it speaks for another, and would fill what is kept of it"
        );
    }
}
