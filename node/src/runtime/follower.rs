//! Reads what peers say: one stream per peer, kept open, and what is wanted by digest from whoever has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyfleet_api::limits::FETCH_DIGESTS_MAX;
use keyfleet_api::v1;
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_threshold::feed::{Input, Turns, says_itself};
use keyfleet_threshold::identifiers::{ClusterId, Digest, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Blob, Want};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Addresses;
use keyfleet_api::tls::{Connector, Pins};
use keyfleet_api::{channel, messages, report};

/// The pause before a peer is called again; doubled up to the last after every failure.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Timeout of one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// This node, as it shows itself to a peer that it follows.
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
    let (opened, mut turns) = (Instant::now(), Turns::new(me.index, peer));
    loop {
        let next = turns.next_ms().map_or(opened, |next_ms| opened + Duration::from_millis(next_ms));
        tokio::select! {
            item = stream.message() => {
                let item = item.map_err(|status| status.to_string())?.ok_or("it closed the stream")?;
                let blob = match item.item {
                    Some(v1::follow_item::Item::Row(row)) => {
                        place.position = row.position;
                        messages::read_row(&row).filter(|blob| says_itself(blob, peer, &pin))
                    }
                    Some(v1::follow_item::Item::Report(signed)) => {
                        let report = report::verified(&signed, &pin).ok_or("its report is not signed by it")?;
                        place.lineage = report.lineage;
                        None
                    }
                    Some(v1::follow_item::Item::CaughtUp(_)) | None => None,
                };
                let Some(blob) = blob else { continue };
                facts.send(Input::Blob(blob)).await.map_err(|_| "this node stops")?;
            }
            changed = wanted.changed() => {
                changed.map_err(|_| "this node stops")?;
                let now = wanted.borrow_and_update().clone();
                let peers = peers.borrow().keys().copied().collect();
                turns.want(&now, &peers, ms_since(opened));
            }
            () = tokio::time::sleep_until(next), if turns.next_ms().is_some() => {
                let due = turns.due(ms_since(opened));
                fetch(me, &channel, &due, facts).await?;
            }
        }
    }
}

fn ms_since(opened: Instant) -> u64 {
    u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn fetch(me: &Me, channel: &Channel, wanted: &[Digest], facts: &mpsc::Sender<Input>) -> Result<(), String> {
    for wanted in wanted.chunks(FETCH_DIGESTS_MAX) {
        let request = v1::FetchRequest {
            cluster_id: me.cluster.0.to_vec(),
            digests: wanted.iter().map(|digest| digest.0.to_vec()).collect(),
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(FETCH_TIMEOUT);
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
