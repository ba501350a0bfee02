//! A node's Pod: restricted profile, one volume, every user-named Secret optional, so that a node starts and says what it lacks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Capabilities, ConfigMapProjection, ConfigMapVolumeSource, Container, ContainerPort,
    DownwardAPIProjection, DownwardAPIVolumeFile, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, LocalObjectReference,
    ObjectFieldSelector, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, Probe,
    ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SecurityContext, ServiceAccountTokenProjection, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keyfleet_api::wire;
use keyfleet_crds::cluster::keys::{KeySource, SecretKey};
use keyfleet_crds::cluster::pods::Mount;
use keyfleet_crds::node_config::S3_CA_FOLDER;
use keyfleet_crds::{KmsNode, labels, names};

use super::config::{self, CONFIG_FOLDER, STATE_FOLDER, TLS_FOLDER};
use super::{Fleet, node_name};

/// The user that nodes run as; no file of the image belongs to it.
const USER: i64 = 65_532;
/// Seconds that a node has to end: it says goodbye, flushes its replica, closes its state.
const GRACE_SECONDS: i64 = 60;
const NODE: &str = "node";
const RESTORE: &str = "restore";
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds a node's own token for the API server lives.
const TOKEN_SECONDS: i64 = 3607;

/// The Pod of a node.
#[must_use]
pub(crate) fn pod(fleet: &Fleet<'_>, node: &KmsNode) -> Pod {
    let index = node.spec.index;
    let template = &fleet.cluster.spec.pod_template;
    let mut metadata = fleet.node_metadata(node, node_name(node));
    let own = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(template.labels.iter().map(|(k, v)| (k.clone(), v.clone())).chain(own).collect());
    let mut annotations = template.annotations.clone();
    annotations.insert(labels::CONFIG_DIGEST.into(), config::digest(fleet, index));
    metadata.annotations = Some(annotations);
    let restore = fleet.cluster.spec.replication.as_ref().map(|_| {
        let mut container = container(fleet, RESTORE, &["restore"]);
        (container.ports, container.startup_probe) = (None, None);
        (container.readiness_probe, container.liveness_probe) = (None, None);
        vec![container]
    });
    let pull = &template.image_pull_secrets;
    Pod {
        metadata,
        spec: Some(PodSpec {
            service_account_name: Some(names::node(fleet.name, index)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            hostname: Some(names::node(fleet.name, index)),
            subdomain: Some(names::headless_service(fleet.name)),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(pod_security()),
            init_containers: restore,
            containers: vec![container(fleet, NODE, &["run"])],
            volumes: Some(volumes(fleet, index)),
            topology_spread_constraints: Some(spread(fleet)),
            affinity: template.affinity.clone(),
            tolerations: (!template.tolerations.is_empty()).then(|| template.tolerations.clone()),
            node_selector: (!template.node_selector.is_empty()).then(|| template.node_selector.clone()),
            priority_class_name: template.priority_class.clone(),
            image_pull_secrets: (!pull.is_empty())
                .then(|| pull.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(fleet: &Fleet<'_>, name: &str, arguments: &[&str]) -> Container {
    let resources = fleet.cluster.spec.pod_template.resources.clone();
    Container {
        name: name.into(),
        image: Some(fleet.image.into()),
        args: Some(
            arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .chain(["--config".into(), format!("{CONFIG_FOLDER}/{}", config::FILE)])
                .collect(),
        ),
        env: Some(environment(fleet)),
        ports: Some(vec![
            port(wire::ROUND_PORT_NAME, wire::ROUND_PORT),
            port(wire::KMS_PORT_NAME, wire::KMS_PORT),
            port(wire::HTTP_PORT_NAME, wire::HTTP_PORT),
        ]),
        resources: Some(resources.unwrap_or_else(default_resources)),
        security_context: Some(container_security()),
        // A start may replay a replica: it gets its time, once.
        startup_probe: Some(probe("/health", 2, 300)),
        readiness_probe: Some(probe("/ready", 2, 2)),
        liveness_probe: Some(probe("/health", 10, 6)),
        volume_mounts: Some(mounts(fleet)),
        ..Container::default()
    }
}

fn field_of_pod(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value_from: Some(source), value: None }
}

fn environment(fleet: &Fleet<'_>) -> Vec<EnvVar> {
    let mut all = vec![field_of_pod("POD_IP", "status.podIP"), field_of_pod("NODE_NAME", "spec.nodeName")];
    let s3 = fleet.cluster.spec.replication.as_ref().and_then(|replication| replication.s3.credentials_secret.as_ref());
    all.extend(s3.into_iter().flat_map(|name| credentials(name)));
    for variable in &fleet.cluster.spec.pod_template.env {
        all.push(match &variable.secret {
            Some(SecretKey { name, key }) => secret(&variable.name, name, key),
            None => EnvVar { name: variable.name.clone(), value: variable.value.clone(), value_from: None },
        });
    }
    all
}

/// The bucket's credentials, from a Secret of `accessKeyId`, `secretAccessKey` and `sessionToken`.
pub(super) fn credentials(name: &str) -> Vec<EnvVar> {
    vec![
        secret("AWS_ACCESS_KEY_ID", name, "accessKeyId"),
        secret("AWS_SECRET_ACCESS_KEY", name, "secretAccessKey"),
        secret("AWS_SESSION_TOKEN", name, "sessionToken"),
    ]
}

fn secret(name: &str, secret: &str, key: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret.into(), key: key.into(), optional: Some(true) }),
            ..EnvVarSource::default()
        }),
        value: None,
    }
}

/// Each volume with the place where it is mounted.
fn placed(fleet: &Fleet<'_>, index: u32) -> Vec<(Volume, VolumeMount)> {
    let mut all = vec![
        place(
            Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: names::volume_claim(fleet.name, index),
                    read_only: None,
                }),
                ..volume("state")
            },
            STATE_FOLDER,
            false,
        ),
        place(
            Volume {
                config_map: Some(ConfigMapVolumeSource {
                    name: names::node_config(fleet.name, index),
                    ..ConfigMapVolumeSource::default()
                }),
                ..volume("config")
            },
            CONFIG_FOLDER,
            true,
        ),
        place(token(), TOKEN_FOLDER, true),
    ];
    let keys = &fleet.cluster.spec.key_encryption;
    for (at, source) in [&keys.active].into_iter().chain(&keys.previous).enumerate() {
        if let KeySource { secret: Some(SecretKey { name, key }), .. } = source {
            let items = vec![KeyToPath { key: key.clone(), path: "key".into(), mode: None }];
            let volume = secret_volume(&format!("kek-{at}"), name, Some(items));
            all.push(place(volume, &format!("/var/run/keyfleet/kek/{}", source.id), true));
        }
    }
    if let Some(tls) = &fleet.cluster.spec.tls {
        all.push(place(secret_volume("tls", &tls.kms_certificate_secret, None), TLS_FOLDER, true));
    }
    let ca = fleet.cluster.spec.replication.as_ref().and_then(|replication| replication.s3.ca_config_map.as_ref());
    if let Some(name) = ca {
        all.push(place(config_map_volume("s3-ca", name), S3_CA_FOLDER, true));
    }
    for issuer in &fleet.cluster.spec.access.issuers {
        if let Some(name) = &issuer.ca_config_map {
            let volume = config_map_volume(&format!("issuer-{}", issuer.name), name);
            all.push(place(volume, &format!("/var/run/keyfleet/issuers/{}", issuer.name), true));
        }
    }
    all.extend(fleet.cluster.spec.pod_template.mounts.iter().map(|mount| place(of_user(mount), &mount.path, true)));
    all
}

fn volumes(fleet: &Fleet<'_>, index: u32) -> Vec<Volume> {
    placed(fleet, index).into_iter().map(|(volume, _)| volume).collect()
}

fn mounts(fleet: &Fleet<'_>) -> Vec<VolumeMount> {
    // Where something is mounted does not depend on the node.
    placed(fleet, 1).into_iter().map(|(_, mount)| mount).collect()
}

pub(super) fn place(volume: Volume, path: &str, read_only: bool) -> (Volume, VolumeMount) {
    let mount = VolumeMount {
        name: volume.name.clone(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

fn volume(name: &str) -> Volume {
    Volume { name: name.into(), ..Volume::default() }
}

fn secret_volume(name: &str, secret: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            optional: Some(true),
            default_mode: Some(0o440),
            items,
        }),
        ..volume(name)
    }
}

pub(super) fn config_map_volume(name: &str, config_map: &str) -> Volume {
    Volume {
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.into(),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..volume(name)
    }
}

fn of_user(mount: &Mount) -> Volume {
    let name = format!("user-{}", mount.name);
    match mount {
        Mount { secret: Some(secret), .. } => secret_volume(&name, secret, None),
        Mount { config_map: Some(config_map), .. } => config_map_volume(&name, config_map),
        Mount { csi, .. } => Volume {
            csi: csi.as_ref().map(|csi| CSIVolumeSource {
                driver: csi.driver.clone(),
                read_only: Some(true),
                volume_attributes: (!csi.attributes.is_empty()).then(|| csi.attributes.clone()),
                ..CSIVolumeSource::default()
            }),
            ..volume(&name)
        },
    }
}

/// The node's own token for the API server with its CA and namespace, as an automounted one would lie there.
fn token() -> Volume {
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                path: "token".into(),
                expiration_seconds: Some(TOKEN_SECONDS),
                audience: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".into(),
                items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "namespace".into(),
                    field_ref: Some(ObjectFieldSelector {
                        field_path: "metadata.namespace".into(),
                        ..ObjectFieldSelector::default()
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
            }),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o440) }),
        ..volume("api-access")
    }
}

/// One node a worker; over zones as evenly as can be.
fn spread(fleet: &Fleet<'_>) -> Vec<TopologySpreadConstraint> {
    let hostname = spread_over(fleet, "kubernetes.io/hostname", "DoNotSchedule");
    vec![hostname, spread_over(fleet, "topology.kubernetes.io/zone", "ScheduleAnyway")]
}

fn spread_over(fleet: &Fleet<'_>, key: &str, otherwise: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.into(),
        when_unsatisfiable: otherwise.into(),
        node_taints_policy: Some("Honor".into()),
        label_selector: Some(LabelSelector { match_labels: Some(fleet.selector()), match_expressions: None }),
        ..TopologySpreadConstraint::default()
    }
}

fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "128Mi")])),
        limits: Some(quantities(&[("memory", "512Mi")])),
        claims: None,
    }
}

pub(super) fn quantities(of: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    of.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

/// The `restricted` profile, of a pod.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(seccomp()),
        ..PodSecurityContext::default()
    }
}

/// The `restricted` profile, of a container.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(wire::HTTP_PORT_NAME.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
