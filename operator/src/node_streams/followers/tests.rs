use keyfleet_api::{messages, report};
use keyfleet_threshold::curve::SecretScalar;
use keyfleet_threshold::identifiers::{NodeIndex, Threshold};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::polynomial::Polynomial;
use keyfleet_threshold::round::{Body, SignedMessage};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

struct NoTokens;

#[async_trait::async_trait]
impl Tokens for NoTokens {
    async fn token(&self, _: &str) -> Result<Token, TokenError> {
        Err(TokenError::Missing)
    }
}

fn identity(byte: u8) -> IdentitySecretKey {
    IdentitySecretKey::from_seed(&[byte; 32])
}

/// A follower of node 1, whose identity has seed 1.
fn follower() -> Follower {
    let pin = identity(1).public();
    Follower {
        cluster: CLUSTER,
        index: 1,
        address: String::new(),
        pin,
        tokens: Arc::new(NoTokens),
        transcripts: Arc::default(),
        wanted: watch::Sender::default().subscribe(),
        notifications: Arc::default(),
        token: None,
        challenge: Challenge::default(),
        shown: None,
        reader: RoundReader::new(identifiers::ClusterId(CLUSTER.0), NodeIndex::new(1).unwrap(), pin),
    }
}

fn row(sender: u32, signer: u8) -> v1::FollowItem {
    let body = Body::Have { dealer: NodeIndex::new(2).unwrap(), bundle: Digest([3; 32]) };
    let message = SignedMessage::sign(Digest([5; 32]), NodeIndex::new(sender).unwrap(), body, &identity(signer));
    let said = v1::outbox_row::Said::Message(messages::message(&message));
    item(v1::follow_item::Item::Row(v1::OutboxRow { position: 9, number: 4, said: Some(said) }))
}

fn item(item: v1::follow_item::Item) -> v1::FollowItem {
    v1::FollowItem { item: Some(item) }
}

fn reported(change: impl FnOnce(&mut v1::Report), signer: u8) -> v1::FollowItem {
    let mut report = v1::Report {
        cluster_id: CLUSTER.0.to_vec(),
        node_index: 1,
        highest_number: 4,
        lineage: vec![8; 16],
        ..v1::Report::default()
    };
    change(&mut report);
    item(v1::follow_item::Item::Report(report::sign(&report, &identity(signer))))
}

#[test]
fn a_node_speaks_for_itself_alone() {
    let mut follower = follower();
    assert_eq!(follower.take(row(2, 1)), Ok(false), "it spoke in another's name");
    assert_eq!(follower.take(row(1, 2)), Ok(false), "another signed in its name");
    assert_eq!(follower.take(row(1, 1)), Ok(true));
    assert_eq!(follower.take(row(1, 1)), Ok(false), "the same again is nothing new");
    assert_eq!(follower.reader.position(), 9, "it goes on after the last row that was read");
}

#[test]
fn a_report_counts_only_as_the_nodes_own_of_this_cluster() {
    let mut follower = follower();
    assert!(follower.take(reported(|_| (), 2)).is_err(), "signed by another");
    assert!(follower.take(reported(|report| report.node_index = 2, 1)).is_err(), "of another index");
    assert!(follower.take(reported(|report| report.cluster_id = vec![0; 16], 1)).is_err(), "of another cluster");
    assert!(locked(&follower.transcripts).view(None, &[]).highest.is_empty());
    assert_eq!(follower.take(reported(|_| (), 1)), Ok(true));
    assert_eq!(locked(&follower.transcripts).view(None, &[]).highest, [(1, 4)].into());
    assert_eq!(follower.reader.request(&[]).lineage, [8; 16], "its position belongs to this outbox");
}

/// A number without a signature of the key proves nothing.
#[test]
fn a_made_up_certificate_is_none() {
    let mut follower = follower();
    let vector = Polynomial::random(
        SecretScalar::random(&mut ChaCha20Rng::from_seed([1; 32])),
        Threshold(2),
        &mut ChaCha20Rng::from_seed([2; 32]),
    );
    let points = vector.vector().commitments().iter().map(|point| point.encode().to_vec()).collect::<Vec<_>>();
    for (plan, signature) in [(Vec::new(), vec![0; 48]), (vec![1; 400], vec![0xc0; 48])] {
        let certificate = v1::Certificate { number: 900, plan, verification_vector: points.clone(), signature };
        let item = reported(|report| report.newest_certificate = Some(certificate), 1);
        follower.take(item).expect("the rest of the report stands");
        assert!(locked(&follower.transcripts).view(None, &[]).certified.is_empty());
    }
}

#[tokio::test]
async fn news_of_one_cluster_are_told_once_however_much_came() {
    let followers = Followers::new(Arc::new(NoTokens));
    let mut notifications = followers.notifications();
    let (one, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
    for cluster in [one, one, other, one] {
        followers.notifications.of(cluster);
    }
    let mut view = [notifications.next().await, notifications.next().await];
    view.sort();
    assert_eq!(view, [Some(one), Some(other)]);
    assert!(futures_util::FutureExt::now_or_never(notifications.next()).is_none(), "nothing new was heard");
}
