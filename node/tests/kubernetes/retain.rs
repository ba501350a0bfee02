//! The retention job's program, with a real bucket.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use keyfleet_crds::cluster::storage::S3;
use keyfleet_crds::config_file::LogFormat;
use keyfleet_crds::retention_config::{FORMAT, RetentionConfig};
use keyfleet_crds::values::ClusterId;
use keyfleet_litestream::bucket::{Location, StaticCredentials};
use keyfleet_litestream::format::ReplicaName;
use keyfleet_litestream::keys::{KeyEncryptionKey, KeyRing};
use keyfleet_litestream::{Ack, Database, database};

use crate::volume::{ACCESS_KEY, Gateway, SECRET_KEY};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const OTHER: ClusterId = ClusterId([8; 16]);

/// A replica of a few commits.
async fn replica(gateway: &Gateway, folder: &Path, place: &str) {
    let location = Location {
        bucket: "fleet".into(),
        prefix: place.into(),
        endpoint: Some(gateway.url.clone()),
        region: Some("us-east-1".into()),
        credentials: Some(StaticCredentials { access_key_id: ACCESS_KEY.into(), secret_access_key: SECRET_KEY.into() }),
        ..Location::default()
    };
    let keys = Arc::new(KeyRing::with_key(KeyEncryptionKey::new("k", [1; 32]).expect("a key")));
    let path = folder.join(format!("{}.redb", place.replace('/', "-")));
    let name = ReplicaName::new(place).expect("a name");
    let database = Database::open(database::Options::new(path, name, location, keys)).await.expect("a replica");
    let table = redb::TableDefinition::<u64, u64>::new("rows");
    for row in 0..3 {
        let insert = move |txn: &redb::WriteTransaction| {
            txn.open_table(table)?.insert(row, row).map(drop).map_err(redb::Error::from)
        };
        database.write(Ack::Remote { timeout: Duration::from_secs(60) }, insert).await.expect("a commit");
    }
    database.close(Duration::from_secs(60)).await.expect("it is in the bucket");
}

fn retain(folder: &Path, gateway: &Gateway, bucket: &str, credentials: bool) -> Output {
    let config = RetentionConfig {
        format: FORMAT,
        cluster_id: CLUSTER,
        s3: S3 {
            bucket: bucket.into(),
            prefix: Some("fleets".into()),
            region: "us-east-1".into(),
            endpoint: Some(gateway.url.clone()),
            force_path_style: true,
            credentials_secret: None,
            ca_config_map: None,
        },
        grace_hours: 1,
        log: "info".into(),
        log_format: LogFormat::Json,
    };
    let file = folder.join("retention.yaml");
    std::fs::write(&file, config.render()).expect("our own folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfleet-node"));
    command.args(["retain", "--config"]).arg(file).env_clear();
    if credentials {
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    } else {
        // Nobody answers for the machine's identity here.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }
    command.output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The job sweeps each replica of its own cluster, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_sweeps_the_replicas_of_its_own_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start(folder.path()).await;
    let none = retain(folder.path(), &gateway, "fleet", true);
    assert!(none.status.success() && text(&none).contains("there is no replica yet"), "{}", text(&none));

    let places = [format!("fleets/{CLUSTER}/1"), format!("fleets/{CLUSTER}/12")];
    let others = [format!("fleets/{OTHER}/1"), format!("fleets/{CLUSTER}/notes"), format!("{CLUSTER}/1")];
    for place in places.iter().chain(&others) {
        replica(&gateway, folder.path(), place).await;
    }
    let swept = retain(folder.path(), &gateway, "fleet", true);
    assert!(swept.status.success() && text(&swept).contains(r#""replicas":2"#), "{}", text(&swept));
    let boundary = |place: &String| folder.path().join("s3/fleet").join(place).join("boundary").exists();
    assert!(places.iter().all(boundary), "a replica of the cluster was left out: {}", text(&swept));
    assert!(!others.iter().any(boundary), "the job went beyond its cluster: {}", text(&swept));

    // One replica that cannot be swept keeps no other from it, and is reported.
    std::fs::write(folder.path().join("s3/fleet").join(&places[0]).join("boundary"), "nonsense")
        .expect("our own folder");
    let partly = retain(folder.path(), &gateway, "fleet", true);
    let said = text(&partly);
    assert!(!partly.status.success(), "a replica that was not swept is no failure: {said}");
    assert!(said.contains("1 of 2 replicas were not swept: node 1") && said.contains("nonsense"), "{said}");
    assert!(said.contains(r#""node":12"#), "the other replica was not swept: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_can_do_nothing_says_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start(folder.path()).await;
    let missing = retain(folder.path(), &gateway, "nobody-made-this", true);
    assert!(!missing.status.success() && text(&missing).contains("there is no such bucket"), "{}", text(&missing));
    let nameless = retain(folder.path(), &gateway, "fleet", false);
    assert!(!nameless.status.success(), "it deleted as nobody: {}", text(&nameless));
    assert!(text(&nameless).contains("retention.credentialsSecret"), "{}", text(&nameless));
}
