use keyfleet_api::{messages, report};
use keyfleet_threshold::coordination::{FleetView, NodeView, planning};
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::{Block, EpochNumber, PrekeyNumber, Threshold};
use keyfleet_threshold::identity::IdentitySecretKey;
use keyfleet_threshold::plan::{Deadlines, ValidPlan};
use keyfleet_threshold::prekey::PrekeySecret;
use keyfleet_threshold::round::{Body, SignedMessage};

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
        asks: watch::Sender::default().subscribe(),
        asked: Asked { challenge: Challenge::default(), at_ms: 0 },
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

/// A genesis of three nodes.
fn plan() -> ValidPlan {
    let cluster = identifiers::ClusterId(CLUSTER.0);
    let node = |i: u8| {
        let index = NodeIndex::new(i.into()).unwrap();
        let prekey = PrekeySecret::restore(PrekeyNumber(1), &[i; 32]).unwrap().offer(cluster, index, &identity(i));
        NodeView { index, identity: identity(i).public(), prekey: Some(prekey) }
    };
    let view = FleetView {
        cluster,
        number: EpochNumber(900),
        block: Block(100),
        threshold: Threshold(2),
        min_holders: 2,
        deadlines: Deadlines { dealing_blocks: 2, verifying_blocks: 2, preparing_blocks: 2, certifying_blocks: 2 },
        receivers: (1..=3).map(node).collect(),
        connected: (1..=3).filter_map(NodeIndex::new).collect(),
        unawaited: BTreeSet::new(),
    };
    planning::genesis(&view).unwrap()
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

/// An epoch that a node shows is taken up once, whatever it is worth.
#[test]
fn a_kept_epoch_is_news_once_and_a_malformed_one_is_none() {
    let mut follower = follower();
    let plan = plan();
    let shown = v1::KeptEpoch {
        number: plan.number.0,
        plan: plan.encode(),
        vector_digest: vec![1; 32],
        signature: G1::generator().encode().to_vec(),
        qualified: Vec::new(),
    };
    let kept = |shown: &v1::KeptEpoch| item(v1::follow_item::Item::KeptEpoch(shown.clone()));
    assert_eq!(follower.take(kept(&shown)), Ok(true));
    assert_eq!(follower.take(kept(&shown)), Ok(false), "the same again is nothing new");
    let no_signature = v1::KeptEpoch { signature: Vec::new(), ..shown };
    assert_eq!(follower.take(kept(&no_signature)), Ok(false));
    let view = locked(&follower.transcripts).view(None, &[]);
    assert!(view.certified.is_empty(), "nobody signed it");
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
