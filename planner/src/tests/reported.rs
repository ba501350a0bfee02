//! Status of each situation, as people read it.

use keyfleet_crds::conditions::{ClusterCondition, Reason};
use keyfleet_crds::record::Position;
use keyfleet_threshold::coordination::{Decision, FailReason};
use keyfleet_threshold::possession::Unproven;

use super::steady;
use crate::state::{Lag, Problem, Retention, State};
use crate::view::Closing;
use crate::{Action, Facts, status};

/// A node that does not prove what it claims is named with what to do.
/// seed: 002-04
#[test]
fn a_node_that_does_not_prove_its_claim_is_named() {
    let (_, mut state) = steady();
    let (number, _) = state.active().unwrap();
    state.view.holds.get_mut(&number).unwrap().remove(&2);
    state.view.unproven.insert(number, [(2, Unproven::OtherChallenge), (77, Unproven::Missing)].into());
    let status = status::status(&Facts::of(&state), None, None);
    let degraded = status.conditions.iter().find(|one| one.type_ == "Degraded").unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "PossessionUnproven"));
    for part in ["node 2:", &format!("epoch {number}"), "another challenge", "kubectl delete pod"] {
        assert!(degraded.message.contains(part), "`{part}` is missing: {}", degraded.message);
    }
    let problems: Vec<_> = status.node_summary.iter().filter(|node| node.problem.is_some()).map(|n| n.index).collect();
    assert_eq!(problems, [2], "who is no receiver has nothing to prove");
}

/// The condition's message is where people look for how far each node's replica is.
///
/// seed: 001-03
#[test]
fn replicated_says_how_far_each_node_is_behind() {
    let (_, mut state) = steady();
    let s3 = serde_json::json!({ "s3": { "bucket": "fleets" } });
    state.cluster.spec.replication = serde_json::from_value(s3).unwrap();
    let condition = |state: &State| {
        let status = status::status(&Facts::of(state), None, None);
        let found = status.conditions.into_iter().find(|one| one.type_ == ClusterCondition::Replicated.as_str());
        let found = found.expect("there is always one");
        (found.status == "True", found.reason, found.message)
    };
    let at = |sequence| Some(Position { term: 3, sequence, hash: keyfleet_crds::values::Digest([0; 32]) });
    for (index, node) in &mut state.nodes {
        node.position = at(u64::from(*index) * 10);
    }
    let (is, _, message) = condition(&state);
    assert!(is && message.contains("node 1 at 3:10; node 2 at 3:20"), "{message}");
    assert!(
        message.contains("Replicas grow"),
        "without a retention job it does not say that nothing is deleted: {message}"
    );
    state.nodes.get_mut(&2).unwrap().lag = Lag { commits: 7, seconds: 42 };
    let (_, _, message) = condition(&state);
    assert!(message.contains("node 2 at 3:20, 7 commits and 42 s behind"), "{message}");
    state.nodes.get_mut(&3).unwrap().position = None;
    let (is, reason, message) = condition(&state);
    assert!(
        !is && reason == Reason::ReplicaUnavailable.as_str()
            && message.contains("node 3 has not uploaded anything yet"),
        "{message}"
    );
    let told = Problem { reason: Reason::CredentialsRefused, message: "the key is refused".into() };
    state.nodes.get_mut(&4).unwrap().problems.push(told);
    let (is, reason, message) = condition(&state);
    assert!(!is && reason == Reason::CredentialsRefused.as_str(), "{reason}: {message}");
    assert!(
        message.contains("does not reach the bucket: 4. Node 4: the key is refused")
            && message.contains("node 1 at 3:10"),
        "{message}"
    );
}

/// In a round each node's position moves with every message; the status is not written for that.
#[test]
fn positions_that_move_in_a_round_are_told_once_it_is_over() {
    let (_, mut state) = steady();
    let s3 = serde_json::json!({ "s3": { "bucket": "fleets" } });
    state.cluster.spec.replication = serde_json::from_value(s3).unwrap();
    let to = |state: &mut State, sequence| {
        for node in state.nodes.values_mut() {
            node.position = Some(Position { term: 1, sequence, hash: keyfleet_crds::values::Digest([0; 32]) });
        }
    };
    to(&mut state, 5);
    state.cluster.status = status::status(&Facts::of(&state), None, None);
    let settled = state.clone();
    let newest = *state.epochs.keys().next_back().unwrap();
    state.epochs.get_mut(&newest).unwrap().status.as_mut().unwrap().phase = Some(keyfleet_crds::epoch::Phase::Dealing);
    assert!(state.open().is_some(), "no round is open, so that nothing is tried");
    let open = status::status(&Facts::of(&state), None, None);
    to(&mut state, 6);
    assert_eq!(status::status(&Facts::of(&state), None, None), open, "a position that moved is a write");
    let mut over = settled;
    to(&mut over, 6);
    assert_ne!(
        status::status(&Facts::of(&over), None, None),
        over.cluster.status,
        "where it has come to is never told"
    );
}

/// A retention job that fails needs a look and takes nothing from the fleet.
#[test]
fn a_retention_job_that_fails_needs_a_look() {
    let (_, mut state) = steady();
    state.nodes.values_mut().for_each(|node| node.ready = true);
    let conditions = |state: &State| status::status(&Facts::of(state), None, None).conditions;
    let find = |state: &State, type_: ClusterCondition| {
        conditions(state).into_iter().find(|one| one.type_ == type_.as_str()).map(|one| (one.status, one.reason))
    };
    let degraded = find(&state, ClusterCondition::Degraded).expect("there is always one");
    assert_eq!(degraded.0, "False", "the fleet needs a look already: {degraded:?}");
    state.retention = Retention::Failing { since: state.now, succeeded: None };
    let degraded = find(&state, ClusterCondition::Degraded);
    assert_eq!(degraded, Some(("True".to_owned(), Reason::RetentionFailed.as_str().to_owned())));
    assert_eq!(find(&state, ClusterCondition::Ready).map(|ready| ready.0).as_deref(), Some("True"));
}

/// The condition Replicated names a bucket that is away, and a round that fails for it blames the bucket and no node.
///
/// The bucket is away for two of four nodes: what they write waits, and the third dealer that a round needs is one of them.
#[test]
fn a_bucket_outage_is_blamed_on_the_bucket() {
    let (_, mut state) = steady();
    let bucket = serde_json::json!({"s3": {"bucket": "keyfleet"}});
    state.cluster.spec.replication = Some(serde_json::from_value(bucket).unwrap());
    let of = |state: &State, type_: &str| {
        let status = status::status(&Facts::of(state), None, None);
        let found = status.conditions.into_iter().find(|condition| condition.type_ == type_);
        found.map(|condition| (condition.status, condition.reason, condition.message)).unwrap()
    };
    let said = "the connection failed; serving goes on. Since 2026-11-21T12:00:00Z nothing was acknowledged.";
    for index in [2, 3] {
        let problem = Problem { reason: Reason::ReplicaUnavailable, message: said.to_owned() };
        state.nodes.get_mut(&index).unwrap().problems = vec![problem];
    }
    let (status, reason, message) = of(&state, "Replicated");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReplicaUnavailable"), "{message}");
    for says in
        ["does not reach the bucket: 2, 3. Node 2: ", "Since 2026-11-21T12:00:00Z", "docs/runbooks/replicated.md"]
    {
        assert!(message.contains(says), "the condition does not say {says}: {message}");
    }
    assert_eq!(of(&state, "Ready").0, "True", "a fleet that serves is not Ready");

    let (number, epoch) = state.active().map(|(number, epoch)| (number, epoch.clone())).unwrap();
    let failing = |state: &State| {
        let mut state = state.clone();
        let open = state.epochs.get_mut(&number).unwrap();
        open.status = Some(keyfleet_crds::KeyEpochStatus {
            phase: Some(keyfleet_crds::epoch::Phase::Dealing),
            ..Default::default()
        });
        let fail = Decision::Fail(FailReason::TooFewDealers { dealt: 1, needed: 3 });
        let closing = Closing { decision: Some(fail), culprits: Vec::new() };
        state.view.closing.insert(number, closing);
        let (_, open) = state.open().unwrap();
        let actions = crate::rounds::drive(&Facts::of(&state), number, open).expect("the record can be moved on");
        let failure = actions.into_iter().find_map(|action| match action {
            Action::UpdateEpoch { status, .. } => status.failure,
            _ => None,
        });
        failure.expect("the round fails")
    };
    assert_eq!(epoch.spec.expected.len(), 4);
    let failure = failing(&state);
    assert_eq!(failure.reason, "ReplicaUnavailable", "{}", failure.message);
    assert!(failure.message.contains("node 2: the connection failed"), "{}", failure.message);
    // One alone is missed by nobody: what failed, failed for another reason.
    state.nodes.get_mut(&3).unwrap().problems.clear();
    assert_eq!(failing(&state).reason, "TooFewDealers");
}

/// A fleet of which all nodes are needed has no pod to look at while all serve.
#[test]
fn a_fleet_without_a_spare_node_is_told_to_grow() {
    let (_, mut state) = steady();
    let number = state.active().unwrap().0;
    state.epochs.get_mut(&number).unwrap().spec.threshold = 4;
    state.nodes.values_mut().for_each(|node| node.ready = true);
    let at_risk = |state: &State| {
        let status = status::status(&Facts::of(state), None, None);
        let found = status.conditions.into_iter().find(|one| one.type_ == "QuorumAtRisk");
        found.map(|one| (one.status, one.message)).expect("there is always one")
    };
    let (is, message) = at_risk(&state);
    assert!(is == "True" && message.contains("Raise spec.nodes") && !message.contains("not ready"), "{message}");
    state.epochs.get_mut(&number).unwrap().spec.threshold = 3;
    state.nodes.get_mut(&2).unwrap().ready = false;
    let (is, message) = at_risk(&state);
    assert!(is == "True" && message.contains("kubectl describe pod keys-2"), "{message}");
}

/// A run that goes on has not failed yet, and one that ended well clears the failure before it.
#[test]
fn the_newest_run_of_the_retention_job_counts() {
    let (early, late) = ("2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z");
    let of = |status: serde_json::Value| {
        let job = serde_json::json!({ "metadata": {}, "status": status });
        Retention::of(Some(&serde_json::from_value(job).expect("a CronJob")))
    };
    let time = |text: &str| text.parse().expect("a time");
    assert_eq!(Retention::of(None), Retention::Absent);
    assert_eq!(of(serde_json::json!({})), Retention::Fine { succeeded: None });
    let failing = Retention::Failing { since: time(late), succeeded: Some(time(early)) };
    assert_eq!(of(serde_json::json!({ "lastScheduleTime": late, "lastSuccessfulTime": early })), failing);
    let runs = serde_json::json!({ "lastScheduleTime": late, "lastSuccessfulTime": early, "active": [{}] });
    assert_eq!(of(runs), Retention::Fine { succeeded: Some(time(early)) });
    let fine = serde_json::json!({ "lastScheduleTime": early, "lastSuccessfulTime": late });
    assert_eq!(of(fine), Retention::Fine { succeeded: Some(time(late)) });
}
