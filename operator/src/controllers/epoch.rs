//! The controller of `KeyEpoch`s that are being deleted. Everything else about them is decided with their cluster.
//!
//! The finalizer of the active epoch protects it from a slip of the hand. The deletion of a namespace is no slip: there
//! it must not stand in the way, also where the cluster's own object went long ago.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use keyfleet_crds::{KeyEpoch, labels};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Client, Resource as _, ResourceExt as _};

use super::applier::set_finalizer;
use super::{Context, ReconcileError};

/// One reconcile.
///
/// # Errors
/// The first step that failed; the controller tries again.
pub(super) async fn reconcile(
    guarded: Arc<DeserializeGuard<KeyEpoch>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let protected = guarded.meta().finalizers.iter().flatten().any(|one| one == labels::EPOCH_FINALIZER);
    let namespace = guarded.namespace().unwrap_or_default();
    if guarded.meta().deletion_timestamp.is_some() && protected && is_ending(&context.client, &namespace).await? {
        let epochs: Api<KeyEpoch> = Api::namespaced(context.client.clone(), &namespace);
        set_finalizer(&epochs, &guarded.name_any(), labels::EPOCH_FINALIZER, false).await?;
        context.metrics.wrote("KeyEpoch");
    }
    Ok(Action::await_change())
}

/// Returns true while a namespace is being deleted. An operator that may not read namespaces never knows.
pub(super) async fn is_ending(client: &Client, namespace: &str) -> Result<bool, ReconcileError> {
    match Api::<Namespace>::all(client.clone()).get_opt(namespace).await {
        Ok(found) => Ok(found.is_none_or(|found| found.metadata.deletion_timestamp.is_some())),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
