//! A share that is retired is gone: tried with the key-encryption key and everything that its node still has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyfleet_litestream::bucket::{Bucket, Location, RetryPolicy};
use keyfleet_litestream::discover::discover;
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::keys;
use keyfleet_litestream::position::Seq;
use keyfleet_litestream::restore::{Options, Target, restore};
use keyfleet_node::seal::{KeyEncryptionKey, KeyMaterial, KeyName, KeyRing};
use keyfleet_node::store::{Backing, Store};
use keyfleet_scenarios::cluster::Cluster;
use keyfleet_scenarios::fleet::{Fleet, NAME, replication};
use keyfleet_scenarios::machine::volume;
use keyfleet_scenarios::wait;
use keyfleet_threshold::identifiers::{ClusterId, EpochNumber, NodeIndex};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The node whose things are taken.
const NODE: u32 = 1;
/// The fleet's key-encryption key, which the thief has.
const KEY: [u8; 32] = [0x5a; 32];

/// Everything that a thief takes from a node: earlier versions of its state file, and the entries of its key stores.
struct Loot {
    cluster: ClusterId,
    /// State files, by where they are from.
    files: BTreeMap<String, PathBuf>,
    /// Entries by key store and name.
    entries: BTreeMap<(&'static str, String), Vec<u8>>,
    _folder: TempDir,
}

/// Outcome of the theft.
struct Opened {
    /// State files that hold a row of the epoch's share.
    rows: usize,
    /// State files whose row opened.
    shares: usize,
}

impl Loot {
    /// Takes everything. `volume` is where the node's volume is on this machine.
    async fn take(fleet: &Fleet<'_>, volume: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let node = fleet.node(NODE);
        let object = fleet.namespace.get(&["kmsnode", &node])?;
        let id = object["spec"]["clusterId"].as_str().context("a node belongs to a cluster")?;
        let mut cluster = ClusterId([0; 16]);
        hex::decode_to_slice(id, &mut cluster.0)?;

        let mut entries = BTreeMap::new();
        let secret: Secret = serde_json::from_value(fleet.namespace.get(&["secret", &format!("{node}-seal")])?)?;
        for (name, bytes) in secret.data.unwrap_or_default() {
            entries.insert(("Secret", name), bytes.0);
        }
        for file in fs::read_dir(volume.join("seal"))? {
            let file = file?;
            // Names of interrupted writes too.
            let name = file.file_name().to_string_lossy().trim_start_matches('.').to_owned();
            entries.insert(("volume", name), fs::read(file.path())?);
        }
        let mut files = BTreeMap::new();
        let copy = folder.path().join("volume.redb");
        fs::copy(volume.join("state.redb"), &copy)?;
        files.insert("the volume".to_owned(), copy);
        restore_all(fleet, &format!("{id}/{NODE}"), folder.path(), &mut files).await?;
        Ok(Self { cluster, files, entries, _folder: folder })
    }

    /// Every key that any entry gives, tried under its own name and under that of the epoch's data key.
    fn keys(&self, epoch: u64) -> Result<Vec<KeyMaterial>> {
        let node = NodeIndex::new(NODE).context("an index is not zero")?;
        let ring = KeyRing::new(self.cluster, node, vec![KeyEncryptionKey::new("1", KEY)?])?;
        let mut keys = Vec::new();
        for ((_, name), bytes) in &self.entries {
            let names = name.parse().into_iter().chain([KeyName::Data(EpochNumber(epoch))]);
            keys.extend(names.filter_map(|name| ring.unwrap(name, bytes).ok()));
        }
        ensure!(keys.len() > 4, "only {} keys were found: the test does not read what a node has", keys.len());
        Ok(keys)
    }

    /// Tries every key on every file.
    async fn open(&self, epoch: u64) -> Result<Opened> {
        let keys = self.keys(epoch)?;
        let mut opened = Opened { rows: 0, shares: 0 };
        for (at, file) in &self.files {
            let node = NodeIndex::new(NODE).context("an index is not zero")?;
            let store = Store::open(Backing::local(file).with_context(|| at.clone())?, self.cluster, node).await?;
            if !store.share_epochs()?.contains(&EpochNumber(epoch)) {
                continue;
            }
            opened.rows += 1;
            let opens = |key| matches!(store.share(EpochNumber(epoch), key), Ok(Some(_)));
            opened.shares += usize::from(keys.iter().any(opens));
        }
        Ok(opened)
    }

    fn names(&self) -> BTreeSet<&str> {
        self.entries.keys().map(|(_, name)| name.as_str()).collect()
    }
}

/// Restores the replica at every object that is still in the bucket.
async fn restore_all(
    fleet: &Fleet<'_>,
    replica: &str,
    folder: &Path,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    let endpoint = std::env::var("AWS_ENDPOINT_URL_S3").context("`cargo xtask dev env` names the S3 server")?;
    let prefix = format!("{}/{replica}", fleet.namespace.name);
    let location = Location {
        bucket: "keyfleet".into(),
        prefix,
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint),
        ..Location::default()
    };
    let bucket = Bucket::connect(location, RetryPolicy::default()).await;
    let name = ReplicaName::new(replica.to_owned())?;
    let ring = keys::KeyRing::with_key(keys::KeyEncryptionKey::new("1", KEY)?);
    let head = discover(&bucket, &name).await?.head.context("the node has a replica")?.position.seq;
    for seq in 1..=head.0 {
        let file = folder.join(format!("{seq}.redb"));
        let options = Options { target: Target::Seq(Seq(seq)), pin: false, ..Options::default() };
        // Points before the first snapshot, or past retention, are no points any more.
        if restore(&bucket, &name, &ring, &file, &options).await.is_ok() {
            files.insert(format!("the bucket's object {seq} of {}", head.0), file);
        }
    }
    ensure!(files.len() > 1, "nothing could be restored from the bucket: the test has the wrong keys");
    Ok(())
}

/// seed: 000-10, 002-10
#[test]
fn nothing_that_a_node_still_has_opens_a_retired_epoch() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fleet = Fleet::prepare(&cluster, "retired")?;
    let mut spec = replication(&fleet.namespace.name);
    spec["epochs"] = json!({"retention": 1});
    fleet.apply(&spec)?;
    fleet.wait_ready()?;
    let first = fleet.object()?["status"]["activeEpoch"].as_u64().context("an epoch is active")?;
    let genesis = fleet.wait_phase(first, &["Active", "Confirmed"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    // While the epoch lives, everything together opens it: the thief knows the way.
    let held = crate::rounds::Held::new(&fleet, &[fleet.node(NODE)])?;
    let loot = runtime.block_on(Loot::take(&fleet, &volume(&fleet, NODE)?))?;
    let opened = runtime.block_on(loot.open(first))?;
    ensure!(opened.shares > 1 && opened.shares == opened.rows, "{} of {} rows opened", opened.shares, opened.rows);
    ensure!(loot.names().contains(format!("data-{first}").as_str()), "the epoch's key is not in a key store");
    drop((held, loot));
    fleet.wait_pod(NODE, None)?;

    for turn in 0..4 {
        let word = format!("keyfleet.dev/reshare=turn-{turn}");
        let before = fleet.object()?["status"]["activeEpoch"].as_u64().context("an epoch is active")?;
        fleet.namespace.kubectl(&["annotate", "--overwrite", "kmscluster", NAME, &word])?;
        let next = fleet.wait_active(before + 1)?;
        fleet.wait_phase(next, &["Confirmed"])?;
    }
    wait::until("every node has said that it erased the epoch", || {
        let nodes = fleet.namespace.get(&["kmsnodes"])?["items"].as_array().cloned().unwrap_or_default();
        let erased = |node: &&Value| node["status"]["erasedThrough"].as_u64() >= Some(first);
        Ok((nodes.iter().filter(erased).count() == 4).then_some(()))
    })
    .with_context(|| fleet.stands())?;

    let held = crate::rounds::Held::new(&fleet, &[fleet.node(NODE)])?;
    let loot = runtime.block_on(Loot::take(&fleet, &volume(&fleet, NODE)?))?;
    let opened = runtime.block_on(loot.open(first))?;
    ensure!(opened.rows > 0, "the bucket holds no row of epoch {first} any more: nothing was tried");
    ensure!(opened.shares == 0, "{} of {} rows of the retired epoch {first} opened", opened.shares, opened.rows);
    // Nor can it be dealt or opened anew: seed of the dealing, data key and prekey of that round are in no key store.
    let receivers = genesis["spec"]["receivers"].as_array().cloned().unwrap_or_default();
    let named =
        receivers.iter().find(|receiver| receiver["index"] == NODE).map(|receiver| &receiver["prekey"]["number"]);
    let prekey = named.and_then(Value::as_u64).context("the plan names a prekey of the node")?;
    for name in [format!("data-{first}"), format!("seed-{first}"), format!("prekey-{prekey}")] {
        ensure!(!loot.names().contains(name.as_str()), "`{name}` is still in a key store: {:?}", loot.names());
    }
    let local =
        Store::open(Backing::local(&loot.files["the volume"])?, loot.cluster, NodeIndex::new(NODE).context("1")?);
    let rows = runtime.block_on(local)?.share_epochs()?;
    ensure!(!rows.contains(&EpochNumber(first)), "the state file still has a row of epoch {first}: {rows:?}");
    // And the way is still the right one: the epoch of today opens.
    let active = fleet.object()?["status"]["activeEpoch"].as_u64().context("an epoch is active")?;
    let today = runtime.block_on(loot.open(active))?;
    ensure!(today.shares > 0 && today.shares == today.rows, "{} of {} rows of today opened", today.shares, today.rows);
    drop(held);
    Ok(())
}
