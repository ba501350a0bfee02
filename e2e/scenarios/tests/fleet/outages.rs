//! A bucket that goes away, comes back, or comes back as what it was once.

use anyhow::{Context, Result, ensure};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME, command, every};
use keyfleet_scenarios::s3::S3;
use keyfleet_scenarios::wait;
use serde_json::{Value, json};

/// A fleet with a bucket that nobody else uses.
fn with_own_bucket<'a>(cluster: &'a Cluster, purpose: &str, schedule: &Value) -> Result<(Fleet<'a>, S3)> {
    let s3 = S3::start()?;
    let fleet = Fleet::prepare(cluster, purpose)?;
    let mut spec = s3.replication(&fleet.namespace.name);
    spec["schedule"] = schedule.clone();
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    Ok((fleet, s3))
}

/// A node's status page, read through the API server.
pub(crate) fn page(fleet: &Fleet<'_>, index: u32) -> Result<Value> {
    let path = format!("/api/v1/namespaces/{}/pods/{}:9090/proxy/status", fleet.namespace.name, fleet.node(index));
    Ok(serde_json::from_str(&fleet.namespace.cluster.kubectl(["get", "--raw", &path])?)?)
}

/// Asks for a round by annotation. The word has to be another each time.
pub(crate) fn ask(fleet: &Fleet<'_>, word: &str) -> Result<()> {
    let annotation = format!("keyfleet.dev/reshare={word}");
    fleet.namespace.kubectl(&["annotate", "--overwrite", "kmscluster", NAME, &annotation]).map(drop)
}

/// Where a node's replica stood when the node said it last: term and number.
fn position(fleet: &Fleet<'_>, index: u32) -> Result<(u64, u64)> {
    let node = fleet.namespace.get(&["kmsnode", &fleet.node(index)])?;
    let number = |field: &str| node["status"]["node"]["replication"][field].as_u64();
    number("term").zip(number("sequence")).with_context(|| format!("node {index} has told no position"))
}

fn condition(fleet: &Fleet<'_>, type_: &str, status: &str) -> Result<(String, String)> {
    wait::until(&format!("{type_} is {status}"), || {
        Ok(fleet.condition(type_)?.filter(|(is, ..)| is == status).map(|(_, reason, message)| (reason, message)))
    })
    .with_context(|| fleet.stands())
}

/// Ends a pod and waits for the one after it.
fn restart(fleet: &Fleet<'_>, index: u32) -> Result<()> {
    let uid = fleet.wait_pod(index, None)?["metadata"]["uid"].clone();
    fleet.namespace.kubectl(&["delete", "pod", &fleet.node(index)])?;
    fleet.wait_pod(index, uid.as_str()).map(drop)
}

fn failed_for_want_of_the_bucket(fleet: &Fleet<'_>) -> Result<Vec<Value>> {
    let failed = |epoch: &Value| epoch["status"]["failure"]["reason"] == "ReplicaUnavailable";
    Ok(fleet.epochs()?.into_iter().filter(failed).collect())
}

/// While the bucket is away the fleet serves and rounds wait; once it is back nobody has to do anything.
///
/// Boundaries pass and a node restarts; nothing is lost, retired or made, since commits wait to be durable.
///
/// seed: 001-04
#[test]
fn a_bucket_outage_stops_rounds_but_not_serving() -> Result<()> {
    let cluster = Cluster::shared()?;
    let (fleet, mut s3) = with_own_bucket(&cluster, "outage", &every(14)["schedule"])?;
    let (key, sealed) = (fleet.public_key()?, fleet.encrypt("orders/1", b"before")?);
    fleet.never_failing(|| {
        let active = fleet.wait_next()?;
        fleet.wait_phase(active, &["Confirmed"])?;
        let before = position(&fleet, 2)?;
        s3.go_away()?;
        let failed = wait::until("two rounds have failed for want of the bucket", || {
            Ok(Some(failed_for_want_of_the_bucket(&fleet)?).filter(|failed| failed.len() >= 2))
        })
        .with_context(|| fleet.stands())?;
        let message = failed[0]["status"]["failure"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("node 1") && message.contains("serving goes on"), "not said who waits: {message}");

        let (reason, message) = condition(&fleet, "Replicated", "False")?;
        ensure!(reason == "ReplicaUnavailable", "Replicated is False for {reason}: {message}");
        ensure!(message.contains("reach the bucket: 1, 2, 3, 4.") && message.contains("Since 20"), "no lag: {message}");
        let (reason, message) = condition(&fleet, "EpochCurrent", "False")?;
        ensure!(reason == "RoundFailed" && message.contains("ReplicaUnavailable"), "{reason}: {message}");
        let screen = command(&["status", "--namespace", &fleet.namespace.name], b"")?;
        let screen = String::from_utf8_lossy(&screen);
        ensure!(screen.contains("does not reach the bucket"), "`keyfleet status` does not say what waits:\n{screen}");

        // From its volume, and in no round before its new term.
        restart(&fleet, 2)?;
        ensure!(page(&fleet, 2)?["activeEpoch"] == active, "the restarted node does not serve epoch {active}");
        ensure!(position(&fleet, 2)?.0 == before.0, "a node has a new term of a bucket that is away");
        ensure!(fleet.decrypt(&sealed, &[])? == b"before", "other data came out");
        ensure!(condition(&fleet, "Ready", "True").is_ok(), "a fleet that serves is not Ready");
        let served = |epoch: &Value| !epoch["status"]["certificate"].is_null();
        let newest = fleet.epochs()?.iter().filter(|epoch| served(epoch)).filter_map(number).max();
        ensure!(newest == Some(active), "epoch {newest:?} was activated while nothing could be made durable");
        let kept = fleet.wait_phase(active, &["Active", "Confirmed"])?;
        ensure!(kept["status"]["timings"]["retired"].is_null(), "an epoch was retired in the outage");

        s3.come_back()?;
        let next = fleet.wait_active(active + 1)?;
        fleet.wait_phase(next, &["Confirmed"])?;
        condition(&fleet, "Replicated", "True")?;
        condition(&fleet, "EpochCurrent", "True")?;
        let after = wait::until("node 2 has told its new position", || {
            Ok(Some(position(&fleet, 2)?).filter(|after| after.0 > before.0))
        })?;
        ensure!(after.1 > before.1, "the numbers of the replica fell: {before:?}, then {after:?}");
        let snapshots = s3.objects(&fleet.namespace.name)?;
        let of_node = |name: &&String| name.contains("/2/snap/");
        ensure!(snapshots.iter().filter(of_node).count() >= 2, "no snapshot of the new term: {snapshots:?}");
        Ok(())
    })?;
    ensure!(fleet.public_key()? == key, "the public key changed");
    ensure!(fleet.decrypt(&sealed, &[])? == b"before", "other data came out");
    Ok(())
}

/// No node follows a bucket that was rolled back, and all is well once its newest versions are back.
///
/// Somebody restored the bucket from a backup. Running nodes find that acknowledged objects are gone, and add nothing; a node
/// that starts stays on its volume. With the newest versions back all continue by themselves.
///
/// seed: 003-45
#[test]
fn a_rolled_back_bucket_is_not_followed() -> Result<()> {
    let cluster = Cluster::shared()?;
    let (fleet, mut s3) = with_own_bucket(&cluster, "rollback", &json!({}))?;
    let (key, sealed) = (fleet.public_key()?, fleet.encrypt("orders/1", b"before")?);
    s3.go_away()?;
    let older = s3.copy()?;
    s3.come_back()?;
    ask(&fleet, "first")?;
    let active = fleet.wait_next()?;
    fleet.wait_phase(active, &["Confirmed"])?;
    fleet.never_failing(|| {
        s3.go_away()?;
        let newest = s3.copy()?;
        s3.roll_back(&older)?;
        let held = s3.objects("")?;
        condition(&fleet, "Replicated", "False")?;
        s3.come_back()?;
        restart(&fleet, 1)?;
        let refused = |index: u32| {
            wait::until(&format!("node {index} says what is wrong with the bucket"), || {
                let node = fleet.namespace.get(&["kmsnode", &fleet.node(index)])?;
                let problems = node["status"]["node"]["problems"].to_string();
                Ok(problems.contains("docs/runbooks/replicated.md").then_some(()))
            })
            .with_context(|| fleet.stands())
        };
        for index in 1..=4 {
            refused(index)?;
        }
        let (_, message) = condition(&fleet, "Replicated", "False")?;
        ensure!(message.contains("docs/runbooks/replicated.md"), "the condition does not say what to do: {message}");
        ask(&fleet, "second")?;
        wait::until("a round fails for want of the bucket", || {
            Ok((!failed_for_want_of_the_bucket(&fleet)?.is_empty()).then_some(()))
        })
        .with_context(|| fleet.stands())?;
        ensure!(s3.objects("")? == held, "a node added to a bucket that is older than itself");
        ensure!(page(&fleet, 1)?["activeEpoch"] == active, "the restarted node does not serve what it has");
        ensure!(fleet.decrypt(&sealed, &[])? == b"before", "other data came out");

        // The way out.
        s3.go_away()?;
        s3.roll_back(&newest)?;
        s3.come_back()?;
        condition(&fleet, "Replicated", "True")?;
        ask(&fleet, "third")?;
        let next = fleet.wait_active(active + 1)?;
        let next = fleet.wait_phase(next, &["Confirmed"])?;
        let holders = next["status"]["possessors"].as_array().map_or(0, Vec::len);
        ensure!(holders >= 4, "{holders} of 4 nodes hold the next epoch: {}", next["status"]["possessors"]);
        Ok(())
    })?;
    ensure!(fleet.public_key()? == key, "the public key changed");
    Ok(())
}

fn number(epoch: &Value) -> Option<u64> {
    epoch["spec"]["number"].as_u64()
}
