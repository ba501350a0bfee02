//! Bounds of what one peer has open at a node.

use keyfleet_api::limits::FOLLOW_STREAMS_PER_CALLER_MAX;
use tonic::{Code, Streaming};

use super::*;

async fn follow(fleet: &Fleet, identity: &IdentitySecretKey) -> Result<Streaming<v1::FollowItem>, tonic::Status> {
    let connector = Connector::new(Some(identity), fleet.pins.get(index(1)).unwrap()).unwrap();
    let address = fleet.addresses.borrow()[&index(1)].clone();
    let channel = channel::connect(address, connector).await.unwrap();
    let request = v1::FollowRequest { cluster_id: CLUSTER.0.to_vec(), ..v1::FollowRequest::default() };
    Ok(RoundClient::new(channel).follow(request).await?.into_inner())
}

/// A peer that opens one stream too many, each over a connection of its own, is refused with a sentence. Another peer is
/// not, and the first is admitted again once a stream of it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_has_a_bounded_number_of_streams() {
    let fleet = Fleet::start(1).await;
    let (greedy, modest) = (IdentitySecretKey::from_seed(&[97; 32]), IdentitySecretKey::from_seed(&[98; 32]));
    let node = fleet.nodes[0].1.as_ref().unwrap();
    let pins = [(index(1), node.identity()), (index(97), greedy.public()), (index(98), modest.public())];
    fleet.pins.set(pins.into());
    let mut published = node.published();
    let started = published.wait_for(|published| published.outbox.is_some());
    tokio::time::timeout(Duration::from_secs(60), started).await.expect("it does not start").unwrap();

    let mut open = Vec::new();
    for _ in 0..FOLLOW_STREAMS_PER_CALLER_MAX {
        open.push(follow(&fleet, &greedy).await.unwrap());
    }
    let refused = follow(&fleet, &greedy).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "node 97 has 4 Follow streams open here already: close one first");
    let mut other = follow(&fleet, &modest).await.unwrap();
    assert!(other.message().await.unwrap().is_some(), "one peer's streams close the door to another");

    open.pop();
    let again = async {
        while follow(&fleet, &greedy).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("a stream that ended still counts");
}
