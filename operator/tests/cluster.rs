//! The controllers against a real API server. No kubelet and no controller manager run: pods are made and stay pending.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#[path = "../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use keyfleet_crds::cluster::Phase;
use keyfleet_crds::conditions::ClusterCondition;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsClusterStatus, KmsNode};
use keyfleet_operator::controllers::{self, Context, Options, Scope};
use keyfleet_operator::metrics::Metrics;
use keyfleet_operator::node_streams::NoNodes;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(90);

/// An operator of one namespace, stopped when dropped.
struct Running {
    client: Client,
    metrics: Arc<Metrics>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    async fn new(namespace: &str) -> Self {
        let client = apiserver::namespace(namespace).await;
        // The root CA that pods mount is a controller's, and no controller manager runs here.
        Self::start(client)
    }

    fn start(client: Client) -> Self {
        let metrics = Arc::new(Metrics::default());
        let options = Options {
            namespace: "keyfleet-system".into(),
            scope: Scope::of(vec![client.default_namespace().to_owned()]),
            node_image: "keyfleet/node:test".into(),
            subject: "system:serviceaccount:keyfleet-system:keyfleet-operator".into(),
            chains_folder: "/nowhere".into(),
        };
        let context = Context::new(client.clone(), options, Arc::new(NoNodes), metrics.clone());
        let task = tokio::spawn(controllers::run(context));
        Self { client, metrics, task }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn apply(&self) -> KmsCluster {
        let sample: serde_json::Value =
            serde_yaml::from_str(include_str!("../../manifests/samples/smallest.yaml")).expect("a sample");
        let parameters = PatchParams::apply("a-person");
        self.api::<KmsCluster>()
            .patch("keys", &parameters, &Patch::Apply(&sample))
            .await
            .expect("the sample is accepted")
    }

    async fn status(&self) -> KmsClusterStatus {
        let cluster = self.api::<KmsCluster>().get_opt("keys").await.expect("the API server answers");
        cluster.and_then(|cluster| cluster.status).unwrap_or_default()
    }

    /// Every object's kind and name with its version, but for events and what the API server itself makes.
    async fn versions(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.add::<KmsCluster>(&mut all).await;
        self.add::<KmsNode>(&mut all).await;
        self.add::<KeyEpoch>(&mut all).await;
        self.add::<Pod>(&mut all).await;
        self.add::<PersistentVolumeClaim>(&mut all).await;
        self.add::<Secret>(&mut all).await;
        self.add::<Service>(&mut all).await;
        self.add::<ServiceAccount>(&mut all).await;
        self.add::<ConfigMap>(&mut all).await;
        self.add::<Role>(&mut all).await;
        self.add::<RoleBinding>(&mut all).await;
        self.add::<NetworkPolicy>(&mut all).await;
        self.add::<PodDisruptionBudget>(&mut all).await;
        all
    }

    async fn add<K>(&self, all: &mut BTreeMap<String, String>)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        for object in self.api::<K>().list(&ListParams::default()).await.expect("a list").items {
            let version = object.resource_version().unwrap_or_default();
            all.insert(format!("{}/{}", K::kind(&()), object.name_any()), version);
        }
    }

    /// Reconciles of clusters that ended well until now.
    fn reconciles(&self) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find(|line| line.contains("reconcile_seconds_count{kind=\"KmsCluster\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let start = Instant::now();
        while !done().await {
            if start.elapsed() > PATIENCE {
                let versions = self.versions().await;
                let status = serde_json::to_string_pretty(&self.status().await).expect("JSON");
                panic!("waited {PATIENCE:?} for {what}; there are {:?}\nstatus: {status}", versions.keys());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn until_at_rest(&self) {
        self.until("four pods", async || {
            self.api::<Pod>().list(&ListParams::default()).await.is_ok_and(|l| l.items.len() == 4)
        })
        .await;
        let last = std::sync::Mutex::new((BTreeMap::new(), 0));
        self.until("a cluster at rest: the same versions after five more reconciles", async || {
            let (now, count) = (self.versions().await, self.reconciles());
            let mut last = last.lock().expect("one thread");
            if last.0 != now {
                *last = (now, count);
            }
            count >= last.1 + 5
        })
        .await;
    }
}

/// Scenario 1 up to where nodes have to speak, and the price of doing nothing.
/// seed: 002-12
#[tokio::test(flavor = "multi_thread")]
async fn one_apply_makes_all_objects_and_idling_costs_no_writes() {
    let operator = Running::new("one-apply").await;
    let generation = operator.apply().await.metadata.generation;
    operator.until_at_rest().await;
    let before = operator.versions().await;
    for index in 1..=4 {
        for object in [
            format!("KmsNode/keys-{index}"),
            format!("Pod/keys-{index}"),
            format!("PersistentVolumeClaim/keys-{index}-state"),
            format!("Secret/keys-{index}-seal"),
            format!("ServiceAccount/keys-{index}"),
            format!("ConfigMap/keys-{index}-config"),
            format!("Role/keys-{index}"),
            format!("RoleBinding/keys-{index}"),
        ] {
            assert!(before.contains_key(&object), "{object} is missing among {:?}", before.keys());
        }
    }
    for object in [
        "Service/keys",
        "Service/keys-nodes",
        "PodDisruptionBudget/keys",
        "NetworkPolicy/keys-nodes",
        "Role/keys-client",
        "ConfigMap/keys-record",
    ] {
        assert!(before.contains_key(object), "{object} is missing among {:?}", before.keys());
    }
    let again = operator.apply().await;
    assert_eq!(again.metadata.generation, generation, "the same manifest again is no change");
    let reconciles = operator.reconciles();
    operator.until("ten more reconciles", async || operator.reconciles() >= reconciles + 10).await;
    let mut after = operator.versions().await;
    let mut before = before;
    // The second apply itself may note its time on the KmsCluster.
    before.remove("KmsCluster/keys");
    after.remove("KmsCluster/keys");
    assert_eq!(before, after, "an idle cluster was written to");
    let status = operator.status().await;
    assert_eq!((status.threshold, status.nodes, status.next_index), (Some(3), Some(4), Some(5)));
    assert_eq!(status.image.as_deref(), Some("keyfleet/node:test"), "the image is fixed when the cluster is made");
    let ready = status.conditions.iter().find(|condition| condition.type_ == ClusterCondition::Ready.as_str());
    assert_eq!(ready.map(|condition| condition.status.as_str()), Some("False"), "no node has spoken yet");
    assert!(operator.api::<KeyEpoch>().list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// Objects that somebody deletes or changes by hand come back.
#[tokio::test(flavor = "multi_thread")]
async fn objects_that_were_deleted_or_changed_come_back() {
    let operator = Running::new("come-back").await;
    operator.apply().await;
    operator.until_at_rest().await;
    let delete = DeleteParams::default();
    operator.api::<KmsNode>().delete("keys-2", &delete).await.expect("a KmsNode can be deleted");
    operator.api::<Pod>().delete("keys-3", &delete.clone().grace_period(0)).await.expect("a pod can be deleted");
    operator.api::<Service>().delete("keys", &delete).await.expect("a Service can be deleted");
    let bent = json!({ "spec": { "minAvailable": 0 } });
    let budgets = operator.api::<PodDisruptionBudget>();
    budgets.patch("keys", &PatchParams::default(), &Patch::Merge(&bent)).await.expect("a budget can be changed");
    operator
        .until("everything to be as it was", async || {
            let node = operator.api::<KmsNode>().get_opt("keys-2").await.ok().flatten();
            let budget = budgets.get("keys").await.ok().and_then(|budget| budget.spec?.min_available);
            node.is_some_and(|node| node.metadata.deletion_timestamp.is_none() && node.spec.index == 2)
                && operator.api::<Pod>().get_opt("keys-3").await.ok().flatten().is_some()
                && operator.api::<Service>().get_opt("keys").await.ok().flatten().is_some()
                && budget.is_some_and(|budget| serde_json::to_value(budget).is_ok_and(|budget| budget == 3))
        })
        .await;
}

/// A deleted cluster keeps everything that its key needs, and is adopted when applied again.
///
/// Scenario 11, the operator's part: under Retain a deleted cluster is adopted again, with its id.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_cluster_is_adopted_when_applied_again() {
    let operator = Running::new("retain").await;
    operator.apply().await;
    operator.until_at_rest().await;
    let id = operator.status().await.cluster_id.expect("a cluster at rest has an id");
    operator.api::<KmsCluster>().delete("keys", &DeleteParams::default()).await.expect("it can be deleted");
    operator
        .until("the cluster and its pods to go", async || {
            operator.api::<KmsCluster>().get_opt("keys").await.is_ok_and(|cluster| cluster.is_none())
                && operator.api::<Pod>().list(&ListParams::default()).await.is_ok_and(|pods| pods.items.is_empty())
        })
        .await;
    let left = operator.versions().await;
    for object in [
        "KmsNode/keys-1",
        "PersistentVolumeClaim/keys-4-state",
        "Secret/keys-4-seal",
        "Role/keys-1",
        "ConfigMap/keys-record",
    ] {
        assert!(left.contains_key(object), "{object} did not stay: {:?}", left.keys());
    }
    operator.apply().await;
    operator.until_at_rest().await;
    assert_eq!(operator.status().await.cluster_id, Some(id), "the same fleet");
    let claims = operator.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(claims.len(), 4, "and its volumes");
}

/// Genesis is refused while anything of an earlier life is there; a readable record is adopted instead.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_record_present_no_key_is_made() {
    let operator = Running::new("earlier-life").await;
    let unreadable = ConfigMap {
        metadata: ObjectMeta {
            name: Some("keys-record".into()),
            labels: Some([(keyfleet_crds::labels::CLUSTER.to_owned(), "keys".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([("record.json".to_owned(), "{}".to_owned())].into()),
        ..ConfigMap::default()
    };
    let records = operator.api::<ConfigMap>();
    records.create(&PostParams::default(), &unreadable).await.expect("a ConfigMap");
    operator.apply().await;
    operator.until("the refusal", async || operator.status().await.phase == Some(Phase::Blocked)).await;
    let status = operator.status().await;
    assert!(status.cluster_id.is_none(), "no id is minted beside a record that cannot be read");
    assert!(status.reason.as_ref().is_some_and(|why| why.contains("keys-record")), "{:?}", status.reason);
    let fixture = include_str!("../../crds/fixtures/record-v2.json");
    let readable = json!({ "data": { "record.json": fixture } });
    records.patch("keys-record", &PatchParams::default(), &Patch::Merge(&readable)).await.expect("a ConfigMap");
    let recorded: serde_json::Value = serde_json::from_str(fixture).unwrap();
    operator.until("the adoption", async || operator.status().await.public_key.is_some()).await;
    operator.until_at_rest().await;
    let status = operator.status().await;
    assert_eq!(status.cluster_id.map(|id| json!(id.to_string())), Some(recorded["clusterId"].clone()));
    assert_eq!(status.public_key.map(|key| json!(key.to_string())), Some(recorded["publicKey"].clone()));
    assert!(status.reason.as_ref().is_some_and(|why| why.contains("have reported")), "{:?}", status.reason);
    // No node has reported, so that nothing is written on epochs, old or new.
    assert!(operator.api::<KeyEpoch>().list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// The job follows the spec and belongs to the cluster; a run that fails is seen where people and alerts look.
#[tokio::test(flavor = "multi_thread")]
async fn the_retention_job_comes_and_goes_with_the_spec() {
    let operator = Running::new("retention-job").await;
    operator.apply().await;
    let clusters = operator.api::<KmsCluster>();
    let jobs = operator.api::<CronJob>();
    let set = async |spec: serde_json::Value| {
        let patch = json!({ "spec": spec });
        clusters.patch("keys", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the spec is admitted");
    };
    let job = async || jobs.get_opt("keys-retention").await.expect("the API server answers");
    set(json!({ "replication": { "s3": { "bucket": "fleets", "credentialsSecret": "s3" } } })).await;
    operator.until_at_rest().await;
    assert!(job().await.is_none(), "there is a job without an identity of its own");

    set(json!({ "replication": { "retention": { "cron": "5 4 * * *", "credentialsSecret": "s3-delete" } } })).await;
    operator.until("the job", async || job().await.is_some()).await;
    let made = job().await.expect("it was there");
    let owner = made.owner_references().first().map(|owner| owner.kind.clone());
    assert_eq!(owner.as_deref(), Some("KmsCluster"), "the job does not go with the cluster");
    let account = operator.api::<ServiceAccount>().get("keys-retention").await.expect("its account");
    assert_eq!(account.automount_service_account_token, Some(false));
    let roles = operator.api::<RoleBinding>().list(&ListParams::default()).await.expect("a list").items;
    let subjects = roles.iter().filter_map(|role| role.subjects.as_ref()).flatten();
    assert!(
        subjects.into_iter().all(|subject| subject.name != "keys-retention"),
        "the job has rights at the API server"
    );

    operator.until_at_rest().await;
    let version = job().await.and_then(|job| job.resource_version());
    let reconciles = operator.reconciles();
    operator.until("five more reconciles", async || operator.reconciles() >= reconciles + 5).await;
    assert_eq!(job().await.and_then(|job| job.resource_version()), version, "a job at rest is written to");

    let metric = |name: &str| {
        let text = operator.metrics.text();
        let line = text.lines().find(|line| line.contains(name) && line.contains("cluster=\"keys\""));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned()
    };
    // As the controller of CronJobs says it of a run that failed, and then of one that did not.
    let run = json!({ "status": { "lastScheduleTime": "2026-01-01T04:05:00Z" } });
    jobs.patch_status("keys-retention", &PatchParams::default(), &Patch::Merge(&run)).await.expect("a status");
    operator.until("the failure in the metrics", async || metric("retention_failing") == "1").await;
    let run = json!({ "status": { "lastSuccessfulTime": "2026-01-01T04:06:00Z" } });
    jobs.patch_status("keys-retention", &PatchParams::default(), &Patch::Merge(&run)).await.expect("a status");
    operator.until("the success in the metrics", async || metric("retention_failing") == "0").await;
    assert_eq!(metric("retention_last_success_timestamp_seconds"), "1767240360");

    // What only looks like a schedule is reported, and keeps nothing else from being done.
    set(json!({ "replication": { "retention": { "cron": "99 4 * * *" } } })).await;
    let events = operator.api::<Event>();
    operator
        .until("the refusal as an event", async || {
            let all = events.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
            all.iter().any(|event| event.reason.as_deref() == Some("RetentionRefused"))
        })
        .await;
    let failures = operator.metrics.text();
    assert!(
        !failures.contains("reconcile_failures_total{kind=\"KmsCluster\",error=\"api\"}"),
        "reconciles fail: {failures}"
    );
    set(json!({ "replication": { "retention": { "cron": "5 4 * * *" } } })).await;

    set(json!({ "paused": true })).await;
    operator
        .until("the job of a paused cluster to be suspended", async || {
            job().await.and_then(|job| job.spec?.suspend) == Some(true)
        })
        .await;
    set(json!({ "paused": false, "replication": { "retention": null } })).await;
    operator.until("the job to go", async || job().await.is_none()).await;
}

/// Two operators without a lease make each object once, and come to rest.
#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_make_one_fleet() {
    let operator = Running::new("two-operators").await;
    let _other = Running::start(operator.client.clone());
    operator.apply().await;
    operator.until_at_rest().await;
    let nodes = operator.api::<KmsNode>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(nodes.iter().map(|node| node.spec.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(operator.status().await.next_index, Some(5));
}
