//! Items of a `Fetch`: looked up one after the other, as fast as the caller takes them.
//!
//! A caller asks for up to 128 bundles of up to 60 KiB. Only the item that is on its way is in memory, and its points are not
//! read: see [`is_handed_out`]. So a call costs a read and a hash per item, off the threads that serve.

use std::collections::BTreeMap;

use futures_util::{Stream, StreamExt as _, stream};
use keyfleet_api::{messages, v1};
use keyfleet_threshold::feed::{Answer, is_handed_out};
use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::round::Blob;
use tonic::Status;

use crate::store::bundles::BundleFile;

/// Returns the items for these answers, as node `own` hands them out.
pub(super) fn items(
    answers: BTreeMap<Digest, Answer>,
    own: NodeIndex,
    bundles: BundleFile,
) -> impl Stream<Item = Result<v1::FetchItem, Status>> {
    let found = stream::iter(answers).then(move |(digest, answer)| found(digest, answer, own, bundles.clone()));
    found.filter_map(|item| async move { item.map(Ok) })
}

async fn found(digest: Digest, answer: Answer, own: NodeIndex, bundles: BundleFile) -> Option<v1::FetchItem> {
    let found = match answer {
        Answer::Said(message) => v1::fetch_item::Found::Message(messages::message(&message)),
        Answer::Vector(vector) => messages::found(&Blob::Vector(vector)),
        Answer::Kept => {
            let kept = tokio::task::spawn_blocking(move || kept(&digest, own, &bundles));
            v1::fetch_item::Found::Message(kept.await.ok().flatten()?)
        }
    };
    Some(v1::FetchItem { digest: digest.0.to_vec(), found: Some(found) })
}

/// A file that cannot be read has nothing to hand out.
fn kept(digest: &Digest, own: NodeIndex, bundles: &BundleFile) -> Option<v1::SignedMessage> {
    let bytes = bundles.bytes(digest).ok().flatten()?;
    if is_handed_out(&bytes, digest, own) { messages::message_of_bytes(bytes) } else { None }
}
