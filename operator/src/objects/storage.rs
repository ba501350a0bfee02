//! A node's volume claim and its seal: what outlives the pod, the `KmsNode` and the `KmsCluster`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, VolumeResourceRequirements,
};
use keyfleet_crds::names;

use super::Fleet;

/// The volume: ReadWriteOncePod, so that no two pods ever write it.
#[must_use]
pub fn claim(fleet: &Fleet<'_>, index: u32) -> PersistentVolumeClaim {
    let storage = &fleet.cluster.spec.storage;
    let requests = BTreeMap::from([("storage".to_owned(), storage.quantity())]);
    PersistentVolumeClaim {
        metadata: fleet.kept(names::volume_claim(fleet.name, index), fleet.node_labels(index)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOncePod".into()]),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            storage_class_name: storage.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The seal, empty. It is only ever POSTed: an apply would answer with the node's wrapped keys.
#[must_use]
pub fn seal(fleet: &Fleet<'_>, index: u32) -> Secret {
    Secret {
        metadata: fleet.kept(names::seal_secret(fleet.name, index), fleet.node_labels(index)),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}
