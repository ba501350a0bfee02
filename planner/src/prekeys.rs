//! The prekey that a plan names for a receiver: the newest that the receiver signed, wherever that was seen.

use keyfleet_crds::convert;
use keyfleet_crds::prekey::Prekey;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::prekey::SignedPrekey;

use crate::state::{Node, State};
use crate::view::ReportedPrekey;

/// Returns the newest prekey of a node: from its status, from a plan that named a newer one, or from a report of a node that
/// accepted one. Status and plans may have gone back in time, and nodes seal to no older one than they accepted.
#[must_use]
pub(crate) fn newest(
    state: &State,
    cluster: ClusterId,
    node: &Node,
    index: NodeIndex,
    identity: &IdentityPublicKey,
) -> Option<SignedPrekey> {
    let receivers = state.epochs.values().flat_map(|epoch| &epoch.spec.receivers);
    let named = receivers.filter(|receiver| receiver.index == index.value());
    let named = named.filter_map(|receiver| receiver.prekey.clone());
    let reported = state.view.prekeys.get(&index.value()).into_iter().flatten().map(ReportedPrekey::as_named);
    // Of two with one number the node's own word counts: it knows which secret it has.
    let is_newer = |prekey: &Prekey| {
        prekey.number <= Prekey::NUMBER_MAX && node.prekey.is_none_or(|own| prekey.number > own.number.0)
    };
    let mut newer: Vec<_> = named.chain(reported).filter(is_newer).collect();
    newer.sort_by_key(|prekey| std::cmp::Reverse(prekey.number));
    newer.dedup();
    // Anyone may write a plan or a report, and nobody but the node itself signs its prekeys: a false one costs a look.
    let mut read = newer.iter().filter_map(|prekey| convert::signed_prekey(prekey).ok());
    read.find(|prekey| prekey.is_of(cluster, index, identity)).or(node.prekey)
}
