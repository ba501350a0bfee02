//! Crashes at the worst moment, and old backups of a key store.

use std::sync::atomic::{AtomicBool, Ordering};

use keyfleet_threshold::identifiers::EpochNumber;
use keyfleet_threshold::round::Phase;

use keyfleet_node::keystores::decision::Finding;
use keyfleet_node::round::Input;
use keyfleet_node::seal::KeyName;
use keyfleet_test_fleet::rounds::{Operator, TestNode, retirement};

async fn fleet(n: u32) -> Vec<TestNode> {
    let mut nodes: Vec<_> = (1..=n).map(TestNode::new).collect();
    for node in &mut nodes {
        node.start().await;
    }
    nodes
}

fn check(nodes: &[TestNode]) {
    for node in nodes {
        node.invariant_only_live_secrets_remain();
    }
}

/// A node that dies after any step says the same again, and keeps no dead secret.
///
/// seed: 000-10, 000-12, 002-10, 002-15, 003-07, 003-18, 003-30, 003-36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_after_any_step_changes_no_message() {
    let (mut deaths, mut steps) = (0u32, std::collections::BTreeSet::new());
    let finished = AtomicBool::new(false);
    let mut die_at = 1;
    while !finished.load(Ordering::Relaxed) {
        let mut nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
        *nodes[0].dies_after.lock().unwrap() = Some(die_at);
        for node in &mut nodes {
            node.start().await;
        }
        let mut operator = Operator::default();
        let genesis = operator.run(&mut nodes).await;
        let public_key = operator.epochs[0].public_key;
        for _ in 0..2 {
            operator.run(&mut nodes).await;
            let kept = operator.epochs.last().unwrap();
            assert_eq!(kept.public_key, public_key, "dying at step {die_at} changed the public key");
        }
        for at in 0..nodes.len() {
            let retire = retirement(&nodes, at, genesis.number);
            let retired = nodes[at].feed(&retire).await;
            retired.unwrap_or_else(|error| panic!("dying at step {die_at}, retiring: {error}"));
        }
        check(&nodes);
        let rows = nodes[0].driver.as_ref().unwrap().persister().store().share_epochs().unwrap();
        assert!(!rows.contains(&genesis.number), "dying at step {die_at} left a retired share");
        finished.store(nodes[0].died_at.is_empty(), Ordering::Relaxed);
        deaths += u32::try_from(nodes[0].died_at.len()).unwrap();
        steps.extend(nodes[0].died_at.iter().copied());
        // Coprime to the number of steps, so that every kind of step is died after.
        die_at += 11;
    }
    println!("died {deaths} times, after {steps:?}");
    assert_eq!(steps.len(), 7, "not every step was died after: {steps:?}");
}

/// Nothing is published while the API server is away, and all of it once it is back.
///
/// seed: 003-54
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_while_the_api_server_is_away() {
    let mut nodes = fleet(3).await;
    let mut operator = Operator::default();
    operator.run(&mut nodes).await;
    let members = nodes.iter().map(|node| (node.index, node.driver.as_ref().unwrap().identity(), node.readable().1));
    let round = operator.plan(&members.collect::<Vec<_>>());
    *nodes[0].secret.down.lock().unwrap() = true;
    let before = nodes[0].readable().0.len();
    for _ in 0..3 {
        let fed = nodes[0].feed(&Input::Plan((*round.plan).clone())).await;
        assert!(fed.is_err(), "a dealing was said whose seed is in one key store only");
    }
    assert_eq!(nodes[0].readable().0.len(), before, "something was said that is not durable");
    let served = nodes[0].driver.as_ref().unwrap().persister().served().borrow().newest().map(|(number, _)| number);
    assert_eq!(served, Some(EpochNumber(1)), "serving stopped with the API server");
    // A restart in the outage serves on, from the volume alone.
    nodes[0].driver = None;
    let started = nodes[0].try_start().await.unwrap();
    let served = started.persister.served().borrow().newest().map(|(number, _)| number);
    assert_eq!(served, Some(EpochNumber(1)), "a restart in an outage does not serve");
    drop(started);
    *nodes[0].secret.down.lock().unwrap() = false;
    nodes[0].start().await;
    let round = operator.finish(&mut nodes, round).await;
    assert_eq!(round.record.phase, Phase::Confirmed, "the node takes no part once the API server is back");
    assert!(nodes[0].readable().0.len() > before, "nothing was said once the API server was back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_backup_of_the_secret_neither_loses_nor_revives_a_key() {
    let mut nodes = fleet(3).await;
    let mut operator = Operator::default();
    operator.run(&mut nodes).await;
    let backup = nodes[0].secret.data.lock().unwrap().1.clone();
    operator.run(&mut nodes).await;
    operator.run(&mut nodes).await;
    for at in 0..nodes.len() {
        let retire = retirement(&nodes, at, EpochNumber(1));
        nodes[at].feed(&retire).await.unwrap();
    }
    nodes[0].driver = None;
    nodes[0].secret.data.lock().unwrap().1 = backup;
    let started = nodes[0].try_start().await.unwrap();
    let found = started.findings.iter().any(|finding| match finding {
        Finding::SealRolledBack { lacked, revived, .. } => {
            lacked.contains(&KeyName::Data(EpochNumber(3))) && revived.contains(&KeyName::Data(EpochNumber(1)))
        }
        _ => false,
    });
    assert!(found, "the rollback was not reported: {:?}", started.findings);
    drop(started);
    nodes[0].start().await;
    check(&nodes);
    let round = operator.run(&mut nodes).await;
    assert_eq!(round.record.phase, Phase::Confirmed, "the node takes no part any more");
}

/// A share whose key is lost is not served, and the next round gives another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_whose_key_is_lost_is_not_served() {
    let mut nodes = fleet(3).await;
    let mut operator = Operator::default();
    operator.run(&mut nodes).await;
    let identity = nodes[0].driver.as_ref().unwrap().identity();
    nodes[0].driver = None;
    let lost = KeyName::Data(EpochNumber(1)).to_string();
    nodes[0].secret.data.lock().unwrap().1.remove(&lost);
    std::fs::remove_file(nodes[0].folder.path().join("seal").join(&lost)).unwrap();
    let started = nodes[0].try_start().await.unwrap();
    let lost = Finding::SealKeysLost(vec![KeyName::Data(EpochNumber(1))]);
    assert!(started.findings.contains(&lost), "the loss was not reported: {:?}", started.findings);
    assert!(started.persister.served().borrow().newest().is_none(), "an epoch is served whose key is gone");
    drop(started);
    nodes[0].start().await;
    assert_eq!(nodes[0].driver.as_ref().unwrap().identity(), identity, "something was initialised anew");
    let round = operator.run(&mut nodes).await;
    let served = nodes[0].driver.as_ref().unwrap().persister().served().borrow().newest().map(|(number, _)| number);
    assert_eq!(served, Some(round.number), "the next round gave the node no share");
}

/// A first start waits for the seal Secret, since that may hold an identity already.
///
/// seed: 003-55
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_waits_for_the_seal_secret() {
    let node = TestNode::new(1);
    *node.secret.down.lock().unwrap() = true;
    assert!(node.try_start().await.is_err(), "an identity was made while the Secret could not be read");
    *node.secret.down.lock().unwrap() = false;
    let first = node.try_start().await.unwrap().identity;
    let again = node.try_start().await.unwrap().identity;
    assert_eq!(first, again, "a node that died before its first commit has another identity");
}
