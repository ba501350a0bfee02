//! One action, one write. A write that lost its race says so, and everything is read and decided again.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use keyfleet_crds::values::ClusterId;
use keyfleet_crds::{KeyEpoch, KmsCluster, KmsNode, labels, names};
use kube::api::{DeleteParams, EvictParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt};
use serde_json::json;

use super::ReconcileError;
use super::invariants::{
    invariant_cluster_is_stored, invariant_cluster_keeps_its_rules, invariant_epoch_is_stored,
    invariant_epoch_keeps_its_rules, invariant_erasure_only_rises, invariant_node_is_stored,
    invariant_node_keeps_its_rules, invariant_number_is_reserved_before_it_is_posted, invariant_plan_is_stored,
    invariant_record_is_stored, invariant_record_never_falls,
};
use keyfleet_planner::{Action, State};

/// The objects of one cluster, to be written to.
pub(super) struct Applier<'a> {
    pub(super) client: &'a Client,
    pub(super) cluster: &'a KmsCluster,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) node_image: &'a str,
    /// The state that the actions were decided on.
    pub(super) state: &'a State,
}

impl Applier<'_> {
    /// Writes one action.
    pub(super) async fn apply(&self, action: Action) -> Result<(), ReconcileError> {
        let replace = PostParams { field_manager: Some(labels::FIELD_MANAGER.into()), ..PostParams::default() };
        let clusters: Api<KmsCluster> = Api::namespaced(self.client.clone(), self.namespace);
        let nodes: Api<KmsNode> = Api::namespaced(self.client.clone(), self.namespace);
        let epochs: Api<KeyEpoch> = Api::namespaced(self.client.clone(), self.namespace);
        let records: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        match action {
            Action::SetClusterFinalizer { present } => {
                set_finalizer(&clusters, self.name, labels::CLUSTER_FINALIZER, present).await
            }
            Action::MintClusterId { resource_version, mut status } => {
                status.cluster_id = Some(ClusterId(rand::random()));
                // Fixed here: an operator that brings a newer image changes no pod of clusters that are there.
                status.image.get_or_insert_with(|| self.node_image.to_owned());
                self.replace_status(&clusters, resource_version, *status).await
            }
            Action::UpdateCluster { resource_version, status } => {
                self.replace_status(&clusters, resource_version, *status).await
            }
            Action::CreateEpoch(spec) => {
                let number = spec.number;
                invariant_number_is_reserved_before_it_is_posted(self.state, number);
                let mut epoch = KeyEpoch::new(&names::epoch(self.name, number), *spec);
                epoch.metadata.labels = Some(self.labels([(labels::EPOCH_NUMBER, number.to_string())]));
                if let Some(stored) = posted(epochs.create(&replace, &epoch).await)? {
                    invariant_plan_is_stored(&epoch.spec, &stored);
                }
                Ok(())
            }
            Action::UpdateEpoch { number, resource_version, status } => {
                invariant_epoch_keeps_its_rules(self.state, number, &status);
                let name = names::epoch(self.name, number);
                let mut epoch = epochs.get(&name).await?;
                epoch.metadata.resource_version = Some(resource_version);
                epoch.status = Some(*status.clone());
                let stored = epochs.replace_status(&name, &replace, &epoch).await?;
                invariant_epoch_is_stored(number, &status, &stored);
                Ok(())
            }
            Action::SetEpochFinalizer { number, present } => {
                set_finalizer(&epochs, &names::epoch(self.name, number), labels::EPOCH_FINALIZER, present).await
            }
            Action::DeleteEpoch { number } => {
                gone(epochs.delete(&names::epoch(self.name, number), &DeleteParams::default()).await)
            }
            Action::CreateNode(spec) => {
                let index = spec.index;
                let mut node = KmsNode::new(&names::node(self.name, index), *spec);
                node.metadata.labels = Some(self.labels([(labels::NODE_INDEX, index.to_string())]));
                node.metadata.finalizers = self.state.finalizers.then(|| vec![labels::NODE_FINALIZER.into()]);
                if let Some(stored) = posted(nodes.create(&replace, &node).await)? {
                    invariant_node_is_stored(&node.spec, &stored);
                }
                Ok(())
            }
            Action::UpdateNode { resource_version, spec } => {
                invariant_node_keeps_its_rules(self.state, &spec);
                let name = names::node(self.name, spec.index);
                let mut node = nodes.get(&name).await?;
                node.metadata.resource_version = Some(resource_version);
                node.spec = *spec;
                let stored = nodes.replace(&name, &replace, &node).await?;
                invariant_node_is_stored(&node.spec, &stored);
                Ok(())
            }
            Action::NoteErasure { index, resource_version, erased_through, last_epoch } => {
                invariant_erasure_only_rises(self.state, index, erased_through, last_epoch);
                let patch = json!({
                    "metadata": { "resourceVersion": resource_version },
                    "status": { "erasedThrough": erased_through, "lastEpoch": last_epoch },
                });
                let parameters =
                    PatchParams { field_manager: Some(labels::FIELD_MANAGER.into()), ..PatchParams::default() };
                nodes.patch_status(&names::node(self.name, index), &parameters, &Patch::Merge(&patch)).await?;
                Ok(())
            }
            Action::ReleaseNode { index } => {
                set_finalizer(&nodes, &names::node(self.name, index), labels::NODE_FINALIZER, false).await
            }
            Action::DeleteNode { index } => {
                let name = names::node(self.name, index);
                self.leave_to(&nodes, index).await?;
                set_finalizer(&nodes, &name, labels::NODE_FINALIZER, false).await?;
                gone(nodes.delete(&name, &DeleteParams::default()).await)
            }
            Action::Evict { index } => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
                match pods.evict(&names::node(self.name, index), &EvictParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 429 => {
                        Err(ReconcileError::EvictionRefused(status.message))
                    }
                    answer => gone(answer),
                }
            }
            Action::WriteRecord { resource_version, record } => {
                invariant_record_never_falls(self.state, &record);
                let name = names::record(self.name);
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        namespace: Some(self.namespace.into()),
                        labels: Some(self.labels([])),
                        resource_version: resource_version.clone(),
                        ..ObjectMeta::default()
                    },
                    data: Some(record.to_data()),
                    ..ConfigMap::default()
                };
                let stored = match resource_version {
                    // Somebody else's record that appeared meanwhile is not overwritten: it is read and decided on.
                    None => records.create(&replace, &map).await?,
                    Some(_) => records.replace(&name, &replace, &map).await?,
                };
                invariant_record_is_stored(&record, &stored);
                Ok(())
            }
            Action::DeleteRecord => gone(records.delete(&names::record(self.name), &DeleteParams::default()).await),
        }
    }

    /// Makes the node's `KmsNode` the owner of its volume claim, which holds no share now, its account and rights, so that they are
    /// deleted with it.
    async fn leave_to(&self, nodes: &Api<KmsNode>, index: u32) -> Result<(), ReconcileError> {
        let name = names::node(self.name, index);
        let Some(owner) = nodes.get_opt(&name).await?.and_then(|node| node.owner_ref(&())) else { return Ok(()) };
        let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
        let parameters = PatchParams::default();
        let (client, namespace) = (|| self.client.clone(), self.namespace);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(), namespace);
        gone(claims.patch(&names::volume_claim(self.name, index), &parameters, &patch).await)?;
        gone(Api::<RoleBinding>::namespaced(client(), namespace).patch(&name, &parameters, &patch).await)?;
        gone(Api::<Role>::namespaced(client(), namespace).patch(&name, &parameters, &patch).await)?;
        gone(Api::<ServiceAccount>::namespaced(client(), namespace).patch(&name, &parameters, &patch).await)
    }

    async fn replace_status(
        &self,
        clusters: &Api<KmsCluster>,
        resource_version: String,
        status: keyfleet_crds::KmsClusterStatus,
    ) -> Result<(), ReconcileError> {
        invariant_cluster_keeps_its_rules(&self.state.cluster.status, &status);
        let mut cluster = self.cluster.clone();
        cluster.metadata.resource_version = Some(resource_version);
        cluster.metadata.managed_fields = None;
        cluster.status = Some(status.clone());
        let replace = PostParams { field_manager: Some(labels::FIELD_MANAGER.into()), ..PostParams::default() };
        let stored = clusters.replace_status(self.name, &replace, &cluster).await?;
        invariant_cluster_is_stored(&status, &stored);
        Ok(())
    }

    fn labels<const N: usize>(&self, more: [(&str, String); N]) -> std::collections::BTreeMap<String, String> {
        let own = [
            (labels::APP_NAME, "keyfleet".to_owned()),
            (labels::MANAGED_BY, labels::FIELD_MANAGER.to_owned()),
            (labels::CLUSTER, self.name.to_owned()),
        ];
        let id = self.state.cluster.status.cluster_id.map(|id| (labels::CLUSTER_ID, id.to_string()));
        own.into_iter().chain(id).chain(more).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Takes 409 for success: the number or index was reserved, so that an object of that name has the same content.
fn posted<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, ReconcileError> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn gone<T>(answer: Result<T, kube::Error>) -> Result<(), ReconcileError> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

pub(super) async fn set_finalizer<K>(
    api: &Api<K>,
    name: &str,
    finalizer: &str,
    present: bool,
) -> Result<(), ReconcileError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let Some(object) = api.get_opt(name).await? else { return Ok(()) };
    let mut list: Vec<String> = object.finalizers().to_vec();
    let there = list.iter().any(|one| one == finalizer);
    if there == present {
        return Ok(());
    }
    if present {
        list.push(finalizer.to_owned());
    } else {
        list.retain(|one| one != finalizer);
    }
    // With the version read: two writers of one list must not lose each other's entries.
    let patch = json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": list } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}
