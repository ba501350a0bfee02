//! The service `Round`, called without a network.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use keyfleet_api::v1;
use keyfleet_api::v1::round_server::Round as _;
use keyfleet_threshold::identifiers::{ClusterId, Digest, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::round::{Blob, Body, MessageKind, Participant, SignedMessage};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::sync::watch;
use tonic::{Request, Status};

use super::peer_limits::PeerLimits;
use super::round::RoundApi;
use super::transport::Peer;
use crate::round::Published;
use crate::store::bundles::BundleFile;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn identity(byte: u8) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[byte; 32])
}

fn node(index: u32) -> NodeIndex {
    NodeIndex::new(index).unwrap()
}

/// Node 1 after its first commit. Returns the sender that keeps its state published, too.
fn round_api(folder: &Path) -> (RoundApi, watch::Sender<Arc<Published>>) {
    let (participant, _) = Participant::new(CLUSTER, node(1), identity(1), &mut ChaCha20Rng::seed_from_u64(1));
    let published = Published { state: Some(Arc::new(participant.state().clone())), ..Published::default() };
    let published = watch::Sender::new(Arc::new(published));
    let api = RoundApi {
        owner: (CLUSTER, node(1)),
        published: published.subscribe(),
        served: watch::Sender::new(Arc::default()).subscribe(),
        bundles: BundleFile::open(&folder.join("bundles.redb")).unwrap(),
        identity: Arc::new(identity(1)),
        readers: None,
        sequence: Arc::default(),
        reports: Arc::default(),
        limits: PeerLimits::default(),
    };
    (api, published)
}

/// A message of node 2 about plan `plan`.
fn message(plan: u8) -> SignedMessage {
    SignedMessage::sign(Digest([plan; 32]), node(2), Body::Erased, &identity(2))
}

/// A call of node 3.
fn fetch(digests: &[Digest]) -> Request<v1::FetchRequest> {
    let digests = digests.iter().map(|digest| digest.0.to_vec()).collect();
    let mut request = Request::new(v1::FetchRequest { cluster_id: CLUSTER.0.to_vec(), digests });
    request.extensions_mut().insert(Peer(Some(node(3))));
    request
}

fn found(item: Option<Result<v1::FetchItem, Status>>) -> Option<Vec<u8>> {
    match item?.unwrap().found? {
        v1::fetch_item::Found::Message(message) => Some([message.payload, message.signature].concat()),
        v1::fetch_item::Found::Vector(_) => None,
    }
}

/// Writes rows of the second file as they lie on the disk.
fn insert(folder: &Path, rows: &[(Digest, &[u8])]) {
    let file = redb::Database::create(folder.join("bundles.redb")).unwrap();
    let txn = file.begin_write().unwrap();
    {
        let mut table = txn.open_table(redb::TableDefinition::<&[u8; 32], &[u8]>::new("blobs")).unwrap();
        for (digest, bytes) in rows {
            table.insert(&digest.0, [&[4], *bytes].concat().as_slice()).unwrap();
        }
    }
    txn.commit().unwrap();
}

/// The points of 128 bundles cost most of a second; whoever fetches reads them anyway. The kept bytes here end in no point, so
/// whoever reads them finds nothing to hand out.
#[tokio::test]
async fn a_fetch_hands_out_kept_bytes_without_reading_points() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = [&[5; 32], node(2).value().to_be_bytes().as_slice(), &[MessageKind::Partial as u8]].concat();
    bytes.extend([0xff; 48 + 64]);
    assert!(matches!(SignedMessage::decode(&bytes).unwrap().body, Body::Malformed(_)));
    let digest = Digest::of("KEYFLEET-V1-MESSAGE", &[&bytes[..bytes.len() - 64]]);
    let (own, other) = (SignedMessage::sign(Digest([5; 32]), node(1), Body::Erased, &identity(1)), Digest([9; 32]));
    insert(folder.path(), &[(digest, &bytes), (own.digest(), &own.encode()), (other, &bytes)]);

    let (api, _published) = round_api(folder.path());
    let request = fetch(&[digest, own.digest(), other, Digest([8; 32])]);
    let items: Vec<_> = api.fetch(request).await.unwrap().into_inner().collect().await;
    let items: Vec<_> = items.into_iter().map(|item| found(Some(item))).collect();
    assert_eq!(items, [Some(bytes)], "one row is kept under its digest and is not the node's own");
}

/// Eight calls of each of a hundred peers may be under way: what they ask for does not lie in memory until they take it.
#[tokio::test]
async fn a_fetch_looks_an_item_up_when_the_one_before_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (api, _published) = round_api(folder.path());
    let mut messages = [message(1), message(2)];
    messages.sort_by_key(SignedMessage::digest);
    let [first, second] = messages;
    let blobs = [Blob::Message(first.clone()), Blob::Message(second.clone())];
    api.bundles.keep(&blobs).await.unwrap();
    let request = fetch(&[first.digest(), second.digest()]);
    let mut items = api.fetch(request).await.unwrap().into_inner();
    assert_eq!(found(items.next().await), Some(first.encode()));
    api.bundles.retain(BTreeSet::new()).await.unwrap();
    assert_eq!(found(items.next().await), None, "the second was looked up before the first was taken");
}
