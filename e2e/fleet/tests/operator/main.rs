//! The operator, a real API server, and real nodes as tasks of this process: from one apply to reshares.
//!
//! Needs the environment variable `KEYFLEET_BIN`, the folder of the `kubernetes` binary.

#[path = "../../../../crds/tests/apiserver/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod apiserver;
#[allow(dead_code, reason = "shared by several files of tests")]
mod hosts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use keyfleet_crds::cluster::Phase::Ready;
use keyfleet_crds::epoch::Phase;
use keyfleet_crds::values::PublicKey;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsClusterStatus, KmsNode, labels};
use keyfleet_operator::controllers::{self, Context, Options, Scope};
use keyfleet_operator::metrics::Metrics;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use hosts::Hosts;

const PATIENCE: Duration = Duration::from_secs(120);
/// Interval of boundaries, in blocks, that no test lives to see: rounds happen on request alone.
const NO_BOUNDARY: u32 = 100_000;

/// An operator's process, ended when dropped.
struct Operator(tokio::task::JoinHandle<()>);

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Fleet {
    client: Client,
    hosts: Hosts,
}

impl Fleet {
    async fn new(namespace: &str) -> Self {
        let client = apiserver::namespace(namespace).await;
        Self { hosts: Hosts::start(client.clone()).await, client }
    }

    /// Returns a fleet with an operator and its first epoch. Further rounds happen on request alone.
    async fn with_key(namespace: &str) -> (Self, Operator) {
        logs();
        let fleet = Self::new(namespace).await;
        let operator = fleet.operator();
        fleet.apply(NO_BOUNDARY, |_| ()).await;
        fleet.until_active(1).await;
        (fleet, operator)
    }

    fn operator(&self) -> Operator {
        let options = Options {
            subject: "system:serviceaccount:keyfleet-system:keyfleet-operator".into(),
            namespace: "keyfleet-system".into(),
            scope: Scope::of(vec![self.client.default_namespace().to_owned()]),
            node_image: "keyfleet/node:test".into(),
            chains_folder: "/nowhere".into(),
        };
        let context = Context::new(self.client.clone(), options, self.hosts.nodes(), Arc::new(Metrics::default()));
        Operator(tokio::spawn(controllers::run(context)))
    }

    /// Applies the smallest sample with this schedule, and what `change` makes of its spec.
    async fn apply(&self, interval_blocks: u32, change: impl FnOnce(&mut Value)) {
        let mut sample: Value =
            serde_yaml::from_str(include_str!("../../../../manifests/samples/smallest.yaml")).expect("a sample");
        sample["spec"]["schedule"] = json!({
            "source": { "clock": { "blockMs": 250 } },
            "phaseTimeoutSeconds": 60,
            "intervalBlocks": interval_blocks,
            "deadlines": { "dealingBlocks": 8, "verifyingBlocks": 8, "preparingBlocks": 8, "certifyingBlocks": 8 },
        });
        change(&mut sample["spec"]);
        let parameters = PatchParams::apply("a-person").force();
        self.api::<KmsCluster>()
            .patch("keys", &parameters, &Patch::Apply(&sample))
            .await
            .expect("the sample is accepted");
    }

    /// Asks for a round now, as a person does by annotation.
    async fn request_reshare(&self, word: &str) {
        let patch = json!({ "metadata": { "annotations": { labels::RESHARE_REQUEST: word } } });
        self.api::<KmsCluster>().patch("keys", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a patch");
    }

    /// Makes the next epoch by request, and waits until it is the active one.
    async fn next_epoch(&self) -> KeyEpoch {
        let before = activated(&self.epochs().await).last().map_or(0, |epoch| epoch.spec.number);
        self.request_reshare(&format!("after-{before}")).await;
        let newer = |epochs: &[KeyEpoch]| activated(epochs).into_iter().rfind(|epoch| epoch.spec.number > before);
        self.until("the epoch that was asked for", async || newer(&self.epochs().await).is_some()).await;
        newer(&self.epochs().await).expect("it is there")
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn status(&self) -> KmsClusterStatus {
        let cluster = self.api::<KmsCluster>().get_opt("keys").await.expect("the API server answers");
        cluster.and_then(|cluster| cluster.status).unwrap_or_default()
    }

    async fn epochs(&self) -> Vec<KeyEpoch> {
        let mut all = self.api::<KeyEpoch>().list(&ListParams::default()).await.expect("the API server answers").items;
        all.sort_by_key(|epoch| epoch.spec.number);
        all
    }

    async fn until(&self, what: &str, done: impl AsyncFn() -> bool) {
        let start = Instant::now();
        while !done().await {
            if start.elapsed() > PATIENCE {
                let status = serde_json::to_string_pretty(&self.status().await).expect("JSON");
                let epochs: Vec<_> = self.epochs().await.into_iter().map(|e| (e.spec.number, e.status)).collect();
                let nodes = self.api::<KmsNode>().list(&ListParams::default()).await.map(|list| list.items);
                panic!("waited {PATIENCE:?} for {what}\nstatus: {status}\nepochs: {epochs:#?}\nnodes: {nodes:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_ready(&self) {
        self.until("the fleet to be ready", async || self.status().await.phase == Some(Ready)).await;
    }

    async fn public_key(&self) -> Option<PublicKey> {
        self.until("the public key in the status", async || self.status().await.public_key.is_some()).await;
        self.status().await.public_key
    }

    async fn until_active(&self, count: usize) -> Vec<KeyEpoch> {
        let what = format!("{count} epochs that were activated");
        self.until(&what, async || activated(&self.epochs().await).len() >= count).await;
        activated(&self.epochs().await)
    }
}

fn phase(epoch: &KeyEpoch) -> Option<Phase> {
    epoch.status.as_ref().and_then(|status| status.phase)
}

fn activated(epochs: &[KeyEpoch]) -> Vec<KeyEpoch> {
    let was = |epoch: &&KeyEpoch| matches!(phase(epoch), Some(Phase::Active | Phase::Confirmed | Phase::Retired));
    epochs.iter().filter(was).cloned().collect()
}

fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Scenarios 1 and 2 without pods: one apply gives a key, boundaries reshare it, and the public key stays.
///
/// seed: 002-05, 003-32
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_apply_gives_a_key_and_boundaries_reshare_it() {
    logs();
    let fleet = Fleet::new("one-key").await;
    let _operator = fleet.operator();
    fleet.apply(40, |_| ()).await;
    let first = fleet.until_active(1).await;
    let key = fleet.public_key().await;
    assert_eq!(first.len(), 1);
    let epochs = fleet.until_active(3).await;
    let vectors: std::collections::BTreeSet<_> =
        epochs.iter().filter_map(|epoch| epoch.status.as_ref()?.vector_digest).map(|digest| digest.0).collect();
    assert_eq!(vectors.len(), epochs.len(), "each epoch has a vector of its own");
    for epoch in &epochs[1..] {
        assert_eq!(epoch.spec.expected_public_key, key, "a reshare changes no public key");
        assert_eq!(epoch.spec.block % 40, 0, "a reshare happens at a boundary");
    }
    assert_eq!(fleet.status().await.public_key, key);
    fleet.until_ready().await;
}

/// Nodes sign that the secrets of retired epochs are gone, and each `KmsNode` says through which.
///
/// An epoch that is no longer kept is retired, every node destroys its secrets, and the objects say so.
///
/// seed: 003-51
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_sign_that_retired_secrets_are_gone() {
    let (fleet, _operator) = Fleet::with_key("retired").await;
    for _ in 0..4 {
        fleet.next_epoch().await;
    }
    fleet
        .until("epoch 1 to be retired, and erased by all four", async || {
            let epochs = fleet.epochs().await;
            let retired = epochs.iter().all(|epoch| epoch.spec.number != 1 || phase(epoch) == Some(Phase::Retired));
            let nodes =
                fleet.api::<KmsNode>().list(&ListParams::default()).await.expect("the API server answers").items;
            let erased = |node: &&KmsNode| node.status.as_ref().is_some_and(|status| status.erased_through >= Some(1));
            retired && nodes.iter().filter(erased).count() == 4
        })
        .await;
    let epochs = fleet.epochs().await;
    let kept: Vec<u64> = epochs.iter().filter(|e| phase(e) != Some(Phase::Retired)).map(|e| e.spec.number).collect();
    assert!(kept.len() >= 2, "the active epoch and the one before it are kept, whatever else is: {kept:?}");
}

/// The operator's process ends in the middle of rounds; the next one goes on with the same attempt.
///
/// seed: 003-30
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_starts_in_mid_round_finishes_it() {
    logs();
    let fleet = Fleet::new("mid-round").await;
    let mut operator = Some(fleet.operator());
    fleet.apply(NO_BOUNDARY, |_| ()).await;
    fleet.until_active(1).await;
    for (number, linger_ms) in [(2, 0), (3, 150), (4, 300), (5, 450)] {
        fleet.request_reshare(&format!("round-{number}")).await;
        fleet
            .until("the attempt to be made", async || fleet.epochs().await.iter().any(|e| e.spec.number == number))
            .await;
        tokio::time::sleep(Duration::from_millis(linger_ms)).await;
        operator.take();
        operator = Some(fleet.operator());
        fleet
            .until("the attempt to end well", async || {
                activated(&fleet.epochs().await).iter().any(|e| e.spec.number == number)
            })
            .await;
    }
    let epochs = fleet.epochs().await;
    assert_eq!(
        epochs.iter().map(|epoch| epoch.spec.number).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5],
        "no attempt was lost"
    );
}

/// A node that is away costs a round nothing, and has its share soon after it is back, without another round.
///
/// seed: 002-04, 002-07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_holds_the_new_epoch_soon_after() {
    let (fleet, _operator) = Fleet::with_key("away").await;
    fleet.hosts.kill(4);
    fleet
        .until("the node to be seen as gone", async || {
            fleet.status().await.node_summary.iter().any(|node| node.index == 4 && !node.ready)
        })
        .await;
    let second = fleet.next_epoch().await;
    let holders = second.status.as_ref().and_then(|status| status.holders.clone()).unwrap_or_default();
    assert_eq!(holders.iter().map(|holder| holder.index).collect::<Vec<_>>(), [1, 2, 3]);
    fleet.hosts.revive(4);
    fleet
        .until("the node to hold the epoch", async || {
            let epochs = fleet.epochs().await;
            let second = epochs.iter().find(|epoch| epoch.spec.number == 2).and_then(|epoch| epoch.status.clone());
            second.is_some_and(|status| status.possessors == [1, 2, 3, 4])
        })
        .await;
    assert_eq!(fleet.epochs().await.len(), 2, "it took another round");
}

/// A node that proves what it claims by signatures of another day is not counted as a holder, and named; the others are
/// counted. Once it proves what it holds, so is it.
///
/// seed: 003-32
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_prove_its_share_is_not_counted() {
    logs();
    let fleet = Fleet::new("liars").await;
    fleet.hosts.lies(4);
    let _operator = fleet.operator();
    fleet.apply(NO_BOUNDARY, |_| ()).await;
    fleet.until_active(1).await;
    let first = async || fleet.epochs().await.into_iter().find(|epoch| epoch.spec.number == 1).expect("it was made");
    fleet
        .until("the three honest nodes to be counted, and the liar to be named", async || {
            let degraded = |status: &KmsClusterStatus| {
                let degraded = status.conditions.iter().find(|one| one.type_ == "Degraded").cloned();
                degraded.is_some_and(|one| one.reason == "PossessionUnproven" && one.message.contains("node 4:"))
            };
            let possessors = first().await.status.map(|status| status.possessors).unwrap_or_default();
            possessors == [1, 2, 3] && degraded(&fleet.status().await)
        })
        .await;
    assert_eq!(phase(&first().await), Some(Phase::Active), "three of four confirm no epoch that needs four");
    let ready = async |is: bool| fleet.status().await.node_summary.iter().any(|n| n.index == 4 && n.ready == is);
    // Only who was seen as ready is seen to go.
    fleet.until("the node to be seen as ready", async || ready(true).await).await;
    fleet.hosts.repents(4);
    fleet.hosts.kill(4);
    fleet.until("the node to be seen as gone", async || ready(false).await).await;
    fleet.hosts.revive(4);
    fleet.until("the epoch to be confirmed", async || phase(&first().await) == Some(Phase::Confirmed)).await;
    fleet.until_ready().await;
}

/// Scenario 11. A deleted cluster that is applied again is the same fleet with the same key, and goes on resharing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_applied_again_has_its_key() {
    let (fleet, _operator) = Fleet::with_key("again").await;
    let key = fleet.public_key().await;
    for round in 1..=2 {
        fleet.api::<KmsCluster>().delete("keys", &DeleteParams::default()).await.expect("it can be deleted");
        fleet
            .until("the cluster to be gone", async || {
                fleet.api::<KmsCluster>().get_opt("keys").await.is_ok_and(|cluster| cluster.is_none())
            })
            .await;
        fleet.apply(NO_BOUNDARY, |_| ()).await;
        fleet.until("the fleet to be ready again", async || fleet.status().await.phase == Some(Ready)).await;
        assert_eq!(fleet.status().await.public_key, key, "another key after deletion {round}");
        let next = fleet.next_epoch().await;
        assert_eq!(next.spec.expected_public_key, key, "a second genesis after deletion {round}");
    }
}

/// Scenario 6. Two operators without a lease: one epoch per request, and no attempt fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_at_once_make_one_epoch_per_request() {
    logs();
    let fleet = Fleet::new("two").await;
    let (_one, _other) = (fleet.operator(), fleet.operator());
    fleet.apply(NO_BOUNDARY, |_| ()).await;
    fleet.until_active(1).await;
    for _ in 0..3 {
        fleet.next_epoch().await;
    }
    let numbers: Vec<u64> = fleet.epochs().await.iter().map(|epoch| epoch.spec.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "an attempt was made twice, or failed");
}

/// Scenario 12, the operator's part: a new image reaches the nodes one after the other, never two of them at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_reaches_one_node_after_the_other() {
    logs();
    let fleet = Fleet::new("rolling").await;
    let _operator = fleet.operator();
    fleet.apply(NO_BOUNDARY, |_| ()).await;
    fleet.until_ready().await;
    let pods = async || fleet.api::<Pod>().list(&ListParams::default()).await.expect("a list").items;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    assert!(pods().await.iter().all(|pod| image(pod).as_deref() == Some("keyfleet/node:test")));
    fleet.apply(NO_BOUNDARY, |spec| spec["image"] = json!("keyfleet/node:newer")).await;
    let fewest = std::sync::Mutex::new(4);
    fleet
        .until("four pods of the new image that serve", async || {
            let pods = pods().await;
            let serve = pods.iter().filter(|pod| hosts::serves(pod)).count();
            let mut fewest = fewest.lock().expect("one thread");
            *fewest = serve.min(*fewest);
            serve == 4 && pods.iter().all(|pod| image(pod).as_deref() == Some("keyfleet/node:newer"))
        })
        .await;
    assert_eq!(*fewest.lock().expect("one thread"), 3, "a rolling change takes nodes one at a time");
    fleet
        .until("the change to be over", async || {
            let status = fleet.status().await;
            status.conditions.iter().any(|one| one.type_ == "Progressing" && one.status == "False")
        })
        .await;
}

/// A namespace that is deleted goes, whatever is in it: no finalizer stands in its way, with or without the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_fleet_holds_up_a_namespace_that_is_being_deleted() {
    let (fleet, _operator) = Fleet::with_key("ending").await;
    let now = DeleteParams::default();
    let namespaces: Api<Namespace> = Api::all(fleet.client.clone());
    namespaces.delete(fleet.client.default_namespace(), &now).await.expect("it can be deleted");
    // The namespace controller's part: it deletes what is there, and waits.
    let all = ListParams::default();
    fleet.api::<KeyEpoch>().delete_collection(&now, &all).await.expect("epochs can be deleted");
    fleet.api::<KmsNode>().delete_collection(&now, &all).await.expect("nodes can be deleted");
    fleet.api::<KmsCluster>().delete_collection(&now, &all).await.expect("clusters can be deleted");
    fleet
        .until("everything to be gone", async || {
            let nodes = fleet.api::<KmsNode>().list(&all).await.expect("a list").items.len();
            let clusters = fleet.api::<KmsCluster>().list(&all).await.expect("a list").items.len();
            fleet.epochs().await.len() + nodes + clusters == 0
        })
        .await;
}

/// A fleet that grows deals to the newcomer at once, and one that shrinks leaves the highest index out; the key stays.
///
/// seed: 002-02, 002-14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_grows_and_shrinks_under_one_key() {
    logs();
    let fleet = Fleet::new("scale").await;
    let _operator = fleet.operator();
    fleet.apply(NO_BOUNDARY, |_| ()).await;
    fleet.until_ready().await;
    let key = fleet.status().await.public_key;
    let receivers = |epoch: &KeyEpoch| epoch.spec.receivers.iter().map(|one| one.index).collect::<Vec<_>>();
    for (nodes, expected) in [(5, vec![1, 2, 3, 4, 5]), (4, vec![1, 2, 3, 4]), (5, vec![1, 2, 3, 4, 6])] {
        fleet.apply(NO_BOUNDARY, |spec| spec["nodes"] = json!(nodes)).await;
        fleet
            .until("an epoch among the nodes asked for", async || {
                activated(&fleet.epochs().await).last().is_some_and(|epoch| receivers(epoch) == expected)
            })
            .await;
    }
    fleet.until("the fleet to be ready", async || fleet.status().await.ready.as_deref() == Some("5/5")).await;
    assert_eq!(fleet.status().await.public_key, key);
}

/// Scenario 7, without liars: below its quorum a round fails and says why, the epoch before serves, and once nodes are back
/// the next boundary succeeds by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_below_its_quorum_changes_nothing() {
    logs();
    let fleet = Fleet::new("below").await;
    let _operator = fleet.operator();
    fleet
        .apply(40, |spec| (spec["nodes"], spec["threshold"], spec["minHolders"]) = (json!(6), json!(4), json!(5)))
        .await;
    fleet.until_active(1).await;
    fleet.until_ready().await;
    fleet.hosts.kill(5);
    fleet.hosts.kill(6);
    fleet
        .until("a round that failed", async || fleet.epochs().await.iter().any(|e| phase(e) == Some(Phase::Failed)))
        .await;
    let status = fleet.status().await;
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready").expect("it says whether it serves");
    assert_eq!(ready.status, "True", "four of six serve: {}", ready.message);
    let failed = fleet.epochs().await.into_iter().find(|e| phase(e) == Some(Phase::Failed)).expect("it was there");
    let failure = failed.status.as_ref().and_then(|status| status.failure.as_ref()).expect("a failed round says why");
    assert_eq!(failure.reason, "TooFewHolders", "{}", failure.message);
    [5, 6].into_iter().for_each(|index| fleet.hosts.revive(index));
    fleet
        .until("the next round to succeed", async || {
            activated(&fleet.epochs().await).last().is_some_and(|epoch| epoch.spec.number > failed.spec.number)
        })
        .await;
}
