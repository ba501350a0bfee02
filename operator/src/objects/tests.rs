//! Golden files: what is made of the smallest and of the full sample. `KEYFLEET_GOLDEN=write cargo test -p
//! keyfleet-operator` rewrites them; read the difference before you commit it.

use std::path::Path;

use k8s_openapi::api::core::v1::Volume;
use keyfleet_crds::cluster::Replication;
use keyfleet_crds::node_config::S3_CA_FOLDER;
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KmsCluster, KmsClusterStatus, KmsNode, KmsNodeSpec, names};
use serde::Serialize;

use super::{Fleet, access, config, network, pod, retention, storage};

const OPERATOR: &str = "system:serviceaccount:keyfleet-system:keyfleet-operator";

fn sample(text: &str) -> KmsCluster {
    let mut cluster: KmsCluster = serde_yaml::from_str(text).expect("a sample");
    cluster.metadata.namespace = Some("prod".into());
    cluster.metadata.uid = Some("00000000-0000-0000-0000-000000000001".into());
    let id = ClusterId(*b"0123456789abcdef");
    cluster.status = Some(KmsClusterStatus { cluster_id: Some(id), ..KmsClusterStatus::default() });
    cluster
}

fn node(cluster: &KmsCluster, index: u32) -> KmsNode {
    let name = cluster.metadata.name.clone().expect("a sample has a name");
    let spec = KmsNodeSpec {
        cluster_name: name.clone(),
        cluster_id: ClusterId(*b"0123456789abcdef"),
        index,
        identity_key: None,
        removed: false,
        lost: false,
    };
    let mut node = KmsNode::new(&names::node(&name, index), spec);
    node.metadata.uid = Some("00000000-0000-0000-0000-000000000002".into());
    node
}

fn check(folder: &str, file: &str, object: &impl Serialize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder).join(format!("{file}.yaml"));
    let now = serde_yaml::to_string(object).expect("objects are plain data");
    if std::env::var("KEYFLEET_GOLDEN").is_ok_and(|how| how == "write") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the golden folder");
        std::fs::write(&path, now).expect("a golden file");
        return;
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        now,
        before,
        "{} differs; if that is meant: KEYFLEET_GOLDEN=write cargo test -p keyfleet-operator",
        path.display()
    );
}

/// seed: 001-06, 001-11, 002-24, 003-39
#[test]
fn objects_are_as_the_golden_files_say() {
    let samples = [
        ("smallest", include_str!("../../../manifests/samples/smallest.yaml")),
        ("full", include_str!("../../../manifests/samples/full.yaml")),
    ];
    for (folder, text) in samples {
        let cluster = sample(text);
        let fleet = Fleet::of(&cluster, "keyfleet/node:test", OPERATOR).expect("a cluster with an id");
        let node = node(&cluster, 2);
        check(folder, "pod", &pod::pod(&fleet, &node));
        check(folder, "config", &config::config_map(&fleet, &node));
        check(folder, "claim", &storage::claim(&fleet, 2));
        check(folder, "seal", &storage::seal(&fleet, 2));
        check(folder, "headless-service", &network::headless_service(&fleet));
        check(folder, "client-service", &network::client_service(&fleet));
        check(folder, "disruption-budget", &network::disruption_budget(&fleet, 5));
        check(folder, "network-policy", &network::network_policy(&fleet, "keyfleet-system"));
        check(folder, "service-account", &access::service_account(&fleet, &node));
        check(folder, "node-role", &access::node_role(&fleet, 2));
        check(folder, "node-role-binding", &access::node_role_binding(&fleet, 2));
        check(folder, "client-role", &access::client_role(&fleet));
        if let Some(retention) = retention::retention(&fleet) {
            check(folder, "retention-service-account", &retention.service_account);
            check(folder, "retention-config", &retention.config_map);
            check(folder, "retention-cron-job", &retention.cron_job);
        }
    }
}

/// The node parses exactly what the operator renders: one type, strict on both sides.
#[test]
fn a_node_reads_the_configuration_that_is_rendered_for_it() {
    for text in
        [include_str!("../../../manifests/samples/smallest.yaml"), include_str!("../../../manifests/samples/full.yaml")]
    {
        let cluster = sample(text);
        let fleet = Fleet::of(&cluster, "image", OPERATOR).unwrap();
        let map = config::config_map(&fleet, &node(&cluster, 2));
        let rendered = &map.data.expect("a file")[config::FILE];
        let read = keyfleet_crds::node_config::NodeConfig::parse(rendered).expect("the node reads it");
        assert_eq!((read.index, read.operator.as_str()), (2, OPERATOR));
        assert_eq!(read.key_encryption, cluster.spec.key_encryption, "places of keys changed on the way");
        let bucket = |replication: Option<Replication>| replication.map(|replication| replication.s3);
        assert_eq!(bucket(read.replication), bucket(cluster.spec.replication), "the bucket changed on the way");
    }
}

/// A drain takes no pod below the number that the planner names, and an unready pod never stands in its way.
#[test]
fn the_budget_keeps_the_pods_that_it_has_to() {
    let cluster = sample(include_str!("../../../manifests/samples/smallest.yaml"));
    let fleet = Fleet::of(&cluster, "image", OPERATOR).unwrap();
    let spec = network::disruption_budget(&fleet, 5).spec.unwrap();
    assert_eq!(serde_json::to_value(&spec.min_available).unwrap(), 5);
    assert_eq!(spec.unhealthy_pod_eviction_policy.as_deref(), Some("AlwaysAllow"));
    assert!(spec.max_unavailable.is_none(), "it allows no eviction at all without a scale of the owner");
}

/// Nodes cannot delete; what can is a job without the nodes' credentials, without any key, without a token.
#[test]
fn the_retention_job_has_credentials_of_its_own_and_no_keys() {
    let cluster = sample(include_str!("../../../manifests/samples/full.yaml"));
    let fleet = Fleet::of(&cluster, "image", OPERATOR).unwrap();
    let job = retention::retention(&fleet).expect("the full sample has a retention job");
    let text = serde_yaml::to_string(&job.cron_job).unwrap();
    assert!(text.contains("s3-delete") && !text.contains("s3-write"), "it does not delete as itself:\n{text}");
    for key in ["payments-kek", "kek", "projected", "persistentVolumeClaim"] {
        assert!(!text.contains(key), "the job has {key}:\n{text}");
    }
    let spec = job.cron_job.spec.unwrap();
    assert_eq!(spec.concurrency_policy.as_deref(), Some("Forbid"));
    let pod = spec.job_template.spec.unwrap().template;
    let labels = pod.metadata.unwrap().labels.unwrap();
    let nodes = fleet.selector();
    assert!(
        !nodes.iter().all(|(key, value)| labels.get(key) == Some(value)),
        "Services and budgets take it for a node"
    );
    assert_eq!(pod.spec.unwrap().automount_service_account_token, Some(false));
    let rendered = &job.config_map.data.unwrap()[keyfleet_crds::retention_config::FILE];
    let read = keyfleet_crds::retention_config::RetentionConfig::parse(rendered).expect("the job reads it");
    assert_eq!((read.grace_hours, read.cluster_id), (168, fleet.id));
}

/// Without an identity of its own there is no retention job, and a change of it restarts no pod.
#[test]
fn the_retention_job_needs_an_identity_of_its_own() {
    let mut cluster = sample(include_str!("../../../manifests/samples/full.yaml"));
    let digest = |cluster: &KmsCluster| config::digest(&Fleet::of(cluster, "image", OPERATOR).unwrap(), 2);
    let before = digest(&cluster);
    let retention = cluster.spec.replication.as_mut().and_then(|replication| replication.retention.as_mut()).unwrap();
    retention.cron = "0 1 * * *".into();
    retention.credentials_secret = None;
    assert_eq!(digest(&cluster), before, "another schedule of the job rolls every pod");
    assert!(retention::retention(&Fleet::of(&cluster, "image", OPERATOR).unwrap()).is_none());
    let retention = cluster.spec.replication.as_mut().and_then(|replication| replication.retention.as_mut()).unwrap();
    retention.service_account_annotations.insert("eks.amazonaws.com/role-arn".into(), "arn:aws:iam::1:role/x".into());
    let job =
        retention::retention(&Fleet::of(&cluster, "image", OPERATOR).unwrap()).expect("the cloud binds an identity");
    assert!(job.service_account.metadata.annotations.is_some());
}

/// The bucket's authorities are mounted in every pod that uses the bucket, and may come later.
#[test]
fn authorities_are_mounted_wherever_the_bucket_is_used() {
    let mut cluster = sample(include_str!("../../../manifests/samples/full.yaml"));
    cluster.spec.replication.as_mut().unwrap().s3.ca_config_map = Some("our-ca".into());
    let fleet = Fleet::of(&cluster, "image", OPERATOR).unwrap();
    let job = retention::retention(&fleet).unwrap().cron_job.spec.unwrap().job_template.spec.unwrap().template.spec;
    for (what, spec) in [("node", pod::pod(&fleet, &node(&cluster, 1)).spec), ("job", job)] {
        let spec = spec.unwrap();
        let named = |volume: &&Volume| volume.config_map.as_ref().is_some_and(|map| map.name == "our-ca");
        let volume =
            spec.volumes.iter().flatten().find(named).unwrap_or_else(|| panic!("the {what} has no authorities"));
        let optional = volume.config_map.as_ref().and_then(|map| map.optional);
        assert_eq!(optional, Some(true), "a ConfigMap that is missing keeps the {what} from saying so");
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let mount = container.volume_mounts.iter().flatten().find(|mount| mount.name == volume.name);
            let path = mount.map(|mount| mount.mount_path.as_str());
            assert_eq!(path, Some(S3_CA_FOLDER), "container {} does not have them where it looks", container.name);
        }
    }
}

/// A missing Secret must not keep a node from starting and saying so.
#[test]
fn every_secret_that_a_user_names_is_optional() {
    let cluster = sample(include_str!("../../../manifests/samples/full.yaml"));
    let fleet = Fleet::of(&cluster, "image", OPERATOR).unwrap();
    let json = serde_json::to_value(pod::pod(&fleet, &node(&cluster, 1))).unwrap();
    let mut found = 0;
    fn walk(json: &serde_json::Value, found: &mut usize) {
        for key in ["secret", "secretKeyRef"] {
            if let Some(reference) = json.get(key) {
                *found += 1;
                assert_eq!(reference["optional"], true, "{reference}");
            }
        }
        match json {
            serde_json::Value::Object(fields) => fields.values().for_each(|value| walk(value, found)),
            serde_json::Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    walk(&json, &mut found);
    assert!(found >= 4, "the full sample names Secrets, {found} were seen");
}
