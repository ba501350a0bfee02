//! The controller of `KmsCluster`s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use keyfleet_api::wire;
use keyfleet_crds::cluster::schedule::BlockSource as Source;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode, labels, names};
use kube::api::{DeleteParams, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};

use super::applier::Applier;
use super::observe::{Read, observe};
use super::{ClusterCache, Context, ObjectKey, ReconcileError, apply, epoch};
use crate::blocks::clock::{self, Clock};
use crate::blocks::ethereum::Ethereum;
use crate::blocks::{BlockError, BlockSource};
use crate::metrics::Measured;
use crate::node_streams::Target;
use crate::objects::{Fleet, access, network, retention};
use keyfleet_planner::blocks::Tracker;
use keyfleet_planner::state::Retention;
use keyfleet_planner::view::{StreamView, Watched};
use keyfleet_planner::{self as planner, Action as Write, Decisions, State, key_epoch, min_available};

/// Wait between two reconciles of a cluster with an open round: deadlines pass though no node speaks.
const BUSY: Duration = Duration::from_millis(500);
/// Longest wait between two reconciles of a cluster at rest.
const IDLE: Duration = Duration::from_secs(60);
/// Wait between two requests to a chain.
const ASK_CHAIN: Duration = Duration::from_secs(3);

/// Reconciles one cluster: dereference, validate, decide, apply, status.
///
/// The status is one of the decisions: it is written with the same compare-and-swap as everything else.
///
/// # Errors
/// The first step that failed; the controller tries again.
pub(super) async fn reconcile(
    guarded: Arc<DeserializeGuard<KmsCluster>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let cluster = guarded.0.as_ref().map_err(|error| ReconcileError::Malformed(error.error.clone()))?;
    let key = ObjectKey::of("KmsCluster", cluster);
    let timer = context.metrics.reconcile("KmsCluster");
    let now = jiff::Timestamp::now();

    let Some(read) = dereference(&context, &key.namespace, &key.name).await? else {
        context.forget(&key);
        return Ok(Action::await_change());
    };
    let mut cache = context.remembered(&key);
    let state = validate(&context, &key, &read, &mut cache, now).await;
    let decisions = decide(&context, &key, &state, cache);
    let mut busy = decisions.busy || !decisions.actions.is_empty();
    let released = decisions.actions.contains(&Write::SetClusterFinalizer { present: false });
    apply_decisions(&context, &key, &read, &state, decisions.actions).await?;
    if state.cluster.deleting && released {
        context.forget(&key);
        context.metrics.forget(&key.namespace, &key.name);
        return Ok(Action::await_change());
    }
    busy |= apply_objects(&context, &read, &state).await?;
    context.metrics.cluster(&key.namespace, &key.name, &measured(&state));
    context.succeeded(&key);
    timer.done();
    Ok(Action::requeue(pace(&state, &read.cluster, busy, now)))
}

/// Puts what was read together with the newest block and what nodes say.
async fn validate(
    context: &Context,
    key: &ObjectKey,
    read: &Read,
    cache: &mut ClusterCache,
    now: jiff::Timestamp,
) -> State {
    let (block, last_block) = newest_block(context, &read.cluster, cache, now).await;
    let status = read.cluster.status.as_ref();
    cache.id = status.and_then(|status| status.cluster_id);
    let view = match cache.id {
        Some(id) => {
            context.nodes.follow(id, targets(read, &key.name, &key.namespace));
            let public_key = status.and_then(|status| status.public_key);
            context.nodes.view(id, public_key, watched(read, last_block, now)).await
        }
        None => StreamView::default(),
    };
    observe(read, view, block, last_block, cache, &context.options, now)
}

fn decide(context: &Context, key: &ObjectKey, state: &State, mut cache: ClusterCache) -> Decisions {
    let decisions = planner::decide(state);
    cache.starved_since = decisions.starved_since;
    context.remember(key.clone(), cache);
    if let Some(id) = state.cluster.status.cluster_id.filter(|_| decisions.asks) {
        context.nodes.ask(id);
    }
    if let Some(waiting) = &decisions.waiting {
        tracing::info!(cluster = key.name, namespace = key.namespace, %waiting, "rounds wait");
    }
    decisions
}

async fn apply_decisions(
    context: &Context,
    key: &ObjectKey,
    read: &Read,
    state: &State,
    actions: Vec<Write>,
) -> Result<(), ReconcileError> {
    let applier = Applier {
        client: &context.client,
        cluster: &read.cluster,
        namespace: &key.namespace,
        name: &key.name,
        node_image: &context.options.node_image,
        state,
    };
    for action in actions {
        let event = event(&action, &read.cluster);
        let phase = phase_that_ends(&action, state);
        tracing::debug!(cluster = key.name, namespace = key.namespace, ?action, "writes");
        match applier.apply(action).await {
            Err(ReconcileError::EvictionRefused(why)) => {
                tracing::info!(cluster = key.name, namespace = key.namespace, why, "an eviction was refused");
                context.eviction_refused(key, why);
                continue;
            }
            done => done?,
        }
        if let Some((phase, seconds)) = phase {
            context.metrics.phase(&phase, seconds);
        }
        context.metrics.wrote("KmsCluster");
        if let Some(event) = event {
            publish(context, &read.cluster, &event).await;
        }
    }
    Ok(())
}

fn measured(state: &State) -> Measured {
    let status = &state.cluster.status;
    Measured {
        block: state.last_block,
        active_epoch: status.active_epoch.unwrap_or(0),
        next_boundary: status.next_boundary.unwrap_or(0),
        ready: state.nodes.values().filter(|node| node.ready).count(),
        connected: state.view.connected.len(),
        swept: state.retention.succeeded().map_or(0, jiff::Timestamp::as_second),
        sweep_fails: matches!(state.retention, Retention::Failing { .. }),
    }
}

async fn dereference(context: &Context, namespace: &str, name: &str) -> Result<Option<Read>, ReconcileError> {
    let client = || context.client.clone();
    let clusters: Api<KmsCluster> = Api::namespaced(client(), namespace);
    let Some(cluster) = clusters.get_opt(name).await? else { return Ok(None) };
    let namespace_ends =
        cluster.metadata.deletion_timestamp.is_some() && epoch::is_ending(&context.client, namespace).await?;
    let ours = ListParams::default().labels(&format!("{}={name}", labels::CLUSTER));
    let nodes: Api<KmsNode> = Api::namespaced(client(), namespace);
    let epochs: Api<KeyEpoch> = Api::namespaced(client(), namespace);
    let pods: Api<Pod> = Api::namespaced(client(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(), namespace);
    let records: Api<ConfigMap> = Api::namespaced(client(), namespace);
    let jobs: Api<CronJob> = Api::namespaced(client(), namespace);
    let retention = jobs.get_opt(&names::retention(name)).await?.filter(|job| is_owned(job, &cluster));
    Ok(Some(Read {
        cluster,
        retention,
        nodes: nodes.list(&ours).await?.items,
        epochs: epochs.list(&ours).await?.items,
        pods: pods.list(&ours).await?.items,
        claims: claims.list(&ours).await?.items,
        record: records.get_opt(&names::record(name)).await?,
        namespace_ends,
    }))
}

/// Returns true for a CronJob of this cluster. One of the same name that somebody else made is left alone.
fn is_owned(job: &CronJob, cluster: &KmsCluster) -> bool {
    job.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
}

async fn newest_block(
    context: &Context,
    cluster: &KmsCluster,
    cache: &mut ClusterCache,
    now: jiff::Timestamp,
) -> (Result<u64, BlockError>, u64) {
    let restarted = cache.tracker.is_none();
    let status = cluster.status.as_ref();
    let recorded = status.and_then(|status| status.last_decision_block.max(status.last_processed_boundary));
    let tracker = cache.tracker.get_or_insert_with(|| Tracker::from_record(recorded, now));
    let answer = match &cluster.spec.schedule.source {
        Source { ethereum: Some(chain), .. } => {
            let urls = match (&chain.urls, &chain.urls_secret) {
                (Some(urls), _) => urls.clone(),
                (None, Some(secret)) => mounted_urls(&context.options.chains_folder.join(secret)),
                (None, None) => Vec::new(),
            };
            Ethereum::new(urls, chain.chain_id, chain.finality, chain.confirmations).newest().await
        }
        Source { clock, .. } => {
            let block_ms = clock.as_ref().map_or(12_000, |clock| clock.block_ms);
            Clock { block_ms }.newest().await
        }
    };
    let block = tracker.observe(answer, now, restarted);
    (block, tracker.highest().unwrap_or(0))
}

/// The URLs in a mounted Secret. A missing one gives none, which the source reports as being down.
fn mounted_urls(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).map(|url| url.trim().to_owned()).collect()
}

fn targets(read: &Read, name: &str, namespace: &str) -> BTreeMap<u32, Target> {
    let pinned = read.nodes.iter().filter_map(|node| Some((node.spec.index, node.spec.identity_key?)));
    let targets = pinned.map(|(index, identity)| {
        let address = format!("{}:{}", wire::node_host(name, index, namespace), wire::ROUND_PORT);
        (index, Target { address, identity })
    });
    targets.collect()
}

fn watched(read: &Read, block: u64, now: jiff::Timestamp) -> Vec<Watched> {
    let cap = read.cluster.spec.schedule.phase_timeout_seconds;
    let epochs = read.epochs.iter();
    epochs.map(|epoch| Watched::new(epoch.spec.clone(), epoch.status.clone(), block, now, cap)).collect()
}

/// Applies the objects that follow from the spec. Returns true where something was written.
async fn apply_objects(context: &Context, read: &Read, state: &State) -> Result<bool, ReconcileError> {
    if state.cluster.deleting {
        return Ok(false);
    }
    let Ok(fleet) = Fleet::of(&read.cluster, &context.options.node_image, &context.options.subject) else {
        return Ok(false);
    };
    let (client, fleet) = (&context.client, &fleet);
    let mut wrote = apply::apply(client, &network::headless_service(fleet)).await?;
    wrote |= apply::apply(client, &network::client_service(fleet)).await?;
    wrote |= apply::apply(client, &network::disruption_budget(fleet, min_available(state))).await?;
    wrote |= apply::apply(client, &access::client_role(fleet)).await?;
    if let Some(policy) = network::network_policy(fleet, &context.options.namespace) {
        wrote |= apply::apply(client, &policy).await?;
    }
    match retention::retention(fleet) {
        Some(job) => {
            wrote |= apply::apply(client, &job.service_account).await?;
            wrote |= apply::apply(client, &job.config_map).await?;
            match apply::apply(client, &job.cron_job).await {
                Ok(applied) => wrote |= applied,
                // A schedule that only looks like one. Nothing else waits for it.
                Err(kube::Error::Api(refusal)) if refusal.code == 422 => {
                    let note = format!(
                        "spec.replication.retention: {}. Until it is corrected nothing is deleted",
                        refusal.message
                    );
                    tracing::warn!(
                        cluster = fleet.name,
                        namespace = fleet.namespace,
                        note,
                        "the retention job was refused"
                    );
                    let note = Some(note.chars().take(1000).collect());
                    let (type_, reason, action) = (EventType::Warning, "RetentionRefused".into(), "Reconcile".into());
                    publish(context, fleet.cluster, &Event { type_, reason, note, action, secondary: None }).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Its account and file lie idle until the cluster goes.
        None if state.retention != Retention::Absent => {
            let jobs: Api<CronJob> = Api::namespaced(client.clone(), fleet.namespace);
            match jobs.delete(&names::retention(fleet.name), &DeleteParams::background()).await {
                Ok(_) => wrote = true,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        None => {}
    }
    Ok(wrote)
}

fn pace(state: &State, cluster: &KmsCluster, busy: bool, now: jiff::Timestamp) -> Duration {
    if busy {
        return BUSY;
    }
    // That a node has come back is heard from the node, not from the API server.
    let unconfirmed = state.active().is_some_and(|(_, epoch)| !key_epoch::is_confirmed(epoch.status.as_ref()));
    match &cluster.spec.schedule.source {
        Source { ethereum: Some(_), .. } => ASK_CHAIN,
        _ if unconfirmed => ASK_CHAIN,
        Source { clock, .. } => {
            let block_ms = clock.as_ref().map_or(12_000, |clock| clock.block_ms);
            let next = state.cluster.status.next_boundary.and_then(|next| clock::begins_at(next, block_ms));
            let wait = next.map(|next| next.as_millisecond() - now.as_millisecond());
            let wait = wait.and_then(|ms| u64::try_from(ms).ok()).map(|ms| Duration::from_millis(ms + 50));
            wait.unwrap_or(IDLE).clamp(BUSY, IDLE)
        }
    }
}

/// The phase of a round that a write ends, and how many seconds it lasted.
fn phase_that_ends(action: &Write, state: &State) -> Option<(String, f64)> {
    let Write::UpdateEpoch { number, status, .. } = action else { return None };
    let before = state.epochs.get(number)?.status.as_ref().filter(|before| key_epoch::is_open(Some(before)))?;
    let phase = before.phase.filter(|phase| Some(*phase) != status.phase)?;
    let lasted = state.now.duration_since(key_epoch::entered(before)?.0).as_secs_f64();
    Some((format!("{phase:?}"), lasted.max(0.0)))
}

/// Event that tells people of a write.
fn event(action: &Write, cluster: &KmsCluster) -> Option<Event> {
    let before = cluster.status.as_ref();
    let (type_, reason, note) = match action {
        Write::MintClusterId { .. } => (EventType::Normal, "ClusterCreated", "a cluster id was minted".to_owned()),
        Write::CreateEpoch(plan) => (
            EventType::Normal,
            "RoundStarted",
            format!(
                "attempt {} for block {}: {:?} among {} nodes",
                plan.number,
                plan.block,
                plan.kind,
                plan.receivers.len()
            ),
        ),
        Write::CreateNode(node) => (EventType::Normal, "NodeCreated", format!("node {} was made", node.index)),
        Write::UpdateNode { spec, .. } if spec.removed => {
            (EventType::Normal, "NodeRemoved", format!("node {} is being removed", spec.index))
        }
        Write::UpdateNode { spec, .. } => {
            (EventType::Normal, "IdentityPinned", format!("the identity of node {} is pinned", spec.index))
        }
        Write::Evict { index } => {
            (EventType::Normal, "NodeRestarted", format!("the pod of node {index} is replaced: the spec has changed"))
        }
        Write::UpdateEpoch { number, status, .. } => match (&status.phase, &status.failure) {
            (Some(keyfleet_crds::epoch::Phase::Active), _) => {
                (EventType::Normal, "EpochActive", format!("epoch {number} is active"))
            }
            (_, Some(failure)) => (EventType::Warning, "RoundFailed", format!("attempt {number}: {}", failure.message)),
            _ => return None,
        },
        Write::UpdateCluster { status, .. } => {
            let blocked = Some(keyfleet_crds::cluster::Phase::Blocked);
            if status.phase != blocked || before.is_some_and(|before| before.phase == blocked) {
                return None;
            }
            (EventType::Warning, "Blocked", status.reason.clone().unwrap_or_default())
        }
        _ => return None,
    };
    let note = Some(note.chars().take(1000).collect());
    Some(Event { type_, reason: reason.into(), note, action: "Reconcile".into(), secondary: None })
}

async fn publish(context: &Context, cluster: &KmsCluster, event: &Event) {
    // Events are a courtesy: a refused one changes nothing.
    if let Err(error) = context.recorder.publish(event, &cluster.object_ref(&())).await {
        tracing::warn!(%error, "an event could not be published");
    }
}
