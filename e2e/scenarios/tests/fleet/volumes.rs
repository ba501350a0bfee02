//! Volumes that come back as what they were once, and one that is lost at the worst moment.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyfleet_litestream::bucket::{Location, RetryPolicy};
use keyfleet_litestream::database::Options;
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::start::Permissions;
use keyfleet_litestream::{Ack, Database, keys};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, replication};
use keyfleet_scenarios::machine::volume;
use keyfleet_scenarios::s3::Copy;
use keyfleet_scenarios::wait;
use redb::{ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use serde_json::{Value, json};

use crate::outages::{ask, page};
use crate::rounds::Held;

/// The node whose volume it is.
const NODE: u32 = 3;
/// Commits that a fork has more than its replica.
const FORKED: u32 = 400;
/// The rows that they write.
const FORK: TableDefinition<'_, u32, u32> = TableDefinition::new("fork");

/// A round that is asked for, once every receiver holds its epoch.
fn reshare(fleet: &Fleet<'_>, word: &str) -> Result<u64> {
    let before = fleet.object()?["status"]["activeEpoch"].as_u64().context("an epoch is active")?;
    ask(fleet, word)?;
    let next = fleet.wait_active(before + 1)?;
    let held = || {
        let epoch = fleet.wait_phase(next, &["Active", "Confirmed"])?;
        let holders = epoch["status"]["possessors"].as_array().map_or(0, Vec::len);
        Ok((holders >= 4).then_some(next))
    };
    wait::until(&format!("all four hold epoch {next}"), held).with_context(|| fleet.stands())
}

fn identity(fleet: &Fleet<'_>, index: u32) -> Result<Value> {
    Ok(fleet.namespace.get(&["kmsnode", &fleet.node(index)])?["status"]["node"]["offer"]["key"].clone())
}

/// State files that were set aside in a volume.
fn set_aside(volume: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(volume)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with("state.redb.")).collect())
}

/// Rows that only the forked state file has.
fn forked_rows(file: &Path) -> Option<u64> {
    let database = redb::Database::open(file).ok()?;
    database.begin_read().ok()?.open_table(FORK).ok()?.len().ok()
}

/// Lets the state file in `folder` go on alone, as a process does whose bucket is away: a line that nobody else knows.
fn fork(fleet: &Fleet<'_>, folder: &Path) -> Result<()> {
    let node = fleet.namespace.get(&["kmsnode", &fleet.node(NODE)])?;
    let id = node["spec"]["clusterId"].as_str().context("a node belongs to a cluster")?;
    let replica = ReplicaName::new(format!("{id}/{NODE}"))?;
    let ring = keys::KeyRing::with_key(keys::KeyEncryptionKey::new("1", [0x5a; 32])?);
    let nowhere = Location {
        bucket: "keyfleet".into(),
        region: Some("us-east-1".into()),
        endpoint: Some("http://127.0.0.1:1".into()),
        ..Location::default()
    };
    let mut options = Options::new(folder.join("state.redb"), replica, nowhere, Arc::new(ring));
    options.permissions = Permissions { unproven: true, ..Permissions::default() };
    options.retry = RetryPolicy { read_attempts: 1, ..RetryPolicy::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let database = Database::open(options).await?;
        for row in 0..FORKED {
            let write = move |txn: &redb::WriteTransaction| {
                txn.open_table(FORK)?.insert(row, row)?;
                Ok::<_, redb::Error>(())
            };
            database.write(Ack::Local, write).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
        let _ = database.close(Duration::from_millis(10)).await;
        Ok(())
    })
}

/// A volume that is older than its replica is set aside and never deleted, and so is one with a longer history of its
/// own.
///
/// The volume is tried as it was, then after it went on alone for longer than its replica did. In both cases the node starts
/// from the bucket and its key stores.
///
/// seed: 001-03, 003-45
#[test]
fn older_and_forked_volumes_are_set_aside_not_deleted() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "stale")?;
    let spec = replication(&fleet.namespace.name);
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    let (own, folder) = (identity(&fleet, NODE)?, volume(&fleet, NODE)?);
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    let held = Held::new(&fleet, &[fleet.node(NODE)])?;
    let stale = Copy::of(&folder)?;
    drop(held);
    fleet.wait_pod(NODE, None)?;
    reshare(&fleet, "first")?;
    ensure!(set_aside(&folder)?.is_empty(), "something was set aside before: {:?}", set_aside(&folder)?);

    for (turn, what) in ["an older volume", "an older volume with a longer line of its own"].into_iter().enumerate() {
        let held = Held::new(&fleet, &[fleet.node(NODE)])?;
        if turn > 0 {
            fork(&fleet, stale.path())?;
        }
        stale.put_in_place_of(&folder)?;
        drop(held);
        fleet.wait_pod(NODE, None)?;
        let aside = set_aside(&folder)?;
        ensure!(!aside.is_empty(), "{what} was taken up: nothing is set aside");
        let rows = aside.iter().map(|name| forked_rows(&folder.join(name))).max().flatten();
        let wanted = (turn > 0).then_some(u64::from(FORKED));
        ensure!(
            rows == wanted,
            "{what} was not kept as it was: {rows:?} rows of its own, not {wanted:?}, in {aside:?}"
        );
        ensure!(identity(&fleet, NODE)? == own, "the node came back from {what} as another one");
        let active = fleet.object()?["status"]["activeEpoch"].clone();
        ensure!(page(&fleet, NODE)?["activeEpoch"] == active, "from {what}, the node does not serve epoch {active}");
        reshare(&fleet, &format!("after-{turn}"))?;
    }
    // Its share is the right one: with another node away, it is needed.
    let held = Held::new(&fleet, &[fleet.node(1)])?;
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"secret", "other data came out");
    drop(held);
    Ok(())
}

/// A volume that is lost in the middle of a round loses nothing that was acknowledged.
///
/// Pod and volume are gone when the node has its share and has not published it, while the round waits for its messages.
/// Everything acknowledged comes back, the node repeats its messages unchanged, and takes part in the next round.
///
/// seed: 001-04, 003-36
#[test]
fn a_volume_lost_in_a_round_loses_nothing_acknowledged() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "midround")?;
    // One barrier after the other: the node starts again in no time, and is not to get past them.
    let steps = ["KeyStores", "Commit", "Acknowledged"].map(|step| format!("{NODE}:{step}@Prepared"));
    let mut spec = replication(&fleet.namespace.name);
    spec["image"] = json!("docker.io/keyfleet/node-faults:dev");
    spec["podTemplate"] = json!({"env": [
        {"name": "KEYFLEET_DANGER_FROM", "value": "2"},
        {"name": "KEYFLEET_DANGER_DIE_AT", "value": steps.join(",")},
    ]});
    let deadlines = json!({"dealingBlocks": 20, "verifyingBlocks": 20, "preparingBlocks": 20, "certifyingBlocks": 20});
    spec["schedule"] = json!({ "deadlines": deadlines });
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    let (own, key) = (identity(&fleet, NODE)?, fleet.public_key()?);
    let sealed = fleet.encrypt("orders/1", b"secret")?;
    let first = fleet.object()?["status"]["activeEpoch"].as_u64().context("an epoch is active")?;

    ask(&fleet, "now")?;
    let node = fleet.node(NODE);
    let uid = wait::until("the node dies at a barrier", || {
        let pod = fleet.namespace.get(&["pod", &node])?;
        let container = &pod["status"]["containerStatuses"][0];
        let ended = ["state", "lastState"].map(|state| container[state]["terminated"]["exitCode"].clone());
        Ok(ended.contains(&json!(137)).then(|| pod["metadata"]["uid"].clone()))
    })
    .with_context(|| fleet.stands())?;
    let folder = volume(&fleet, NODE)?;
    fleet.namespace.kubectl(&["delete", "pvc", &format!("{node}-state"), "--wait=false"])?;
    fleet.namespace.kubectl(&["delete", "pod", &node, "--grace-period=0", "--force"])?;
    let open = fleet.epochs()?.last().cloned().context("there is a round")?;
    let number = open["spec"]["number"].as_u64().context("an epoch has a number")?;
    ensure!(number > first && open["status"]["phase"] == "Preparing", "not lost in mid-round: {}", fleet.stands());

    let ended = fleet.wait_phase(number, &["Active", "Confirmed", "Failed"])?;
    let accused = ended["status"]["culprits"].to_string();
    ensure!(!accused.contains("Equivocation"), "the node said something else after its restore: {accused}");
    if ended["status"]["phase"] != "Failed" {
        fleet.wait_active(number)?;
    }
    fleet.wait_pod(NODE, uid.as_str())?;
    let log = fleet.namespace.kubectl(&["logs", &node, "--container", "restore"])?;
    ensure!(log.contains("the state file was restored"), "the node did not come from its replica: {log}");
    ensure!(volume(&fleet, NODE)? != folder, "it is the same volume: nothing was lost");
    ensure!(identity(&fleet, NODE)? == own, "the node came back as another one");
    // Its new volume knows of no barrier that it met: it dies at each of them once more, and has its share all the same.
    let next = reshare(&fleet, "again")?;
    ensure!(next > number, "the round that lost a volume is the next epoch");
    ensure!(fleet.public_key()? == key, "the public key changed");
    let held = Held::new(&fleet, &[fleet.node(1)])?;
    ensure!(fleet.decrypt(&sealed, &["--timeout", "60s"])? == b"secret", "other data came out");
    drop(held);
    Ok(())
}
