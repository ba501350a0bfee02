//! The retention job: a CronJob that deletes what no node's replica needs any more, with credentials of its own.
//!
//! It has no token of the API server and no key: it can delete sealed objects, and nothing else. It belongs to the
//! `KmsCluster` and goes with it; the bucket stays.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, EnvVar, LocalObjectReference, PodSpec, PodTemplateSpec,
    ResourceRequirements, ServiceAccount, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyfleet_crds::cluster::Replication;
use keyfleet_crds::cluster::storage::ReplicaRetention;
use keyfleet_crds::config_file::LogFormat;
use keyfleet_crds::node_config::S3_CA_FOLDER;
use keyfleet_crds::retention_config::{FILE, FORMAT, RetentionConfig};
use keyfleet_crds::{labels, names};

use super::Fleet;
use super::config::CONFIG_FOLDER;
use super::pod::{config_map_volume, container_security, credentials, place, pod_security, quantities};

const CONTAINER: &str = "retention";
/// A run that could not begin in time, since nothing could be started, is skipped: the next one does its work.
const STARTING_SECONDS: i64 = 6 * 3600;
/// The longest run. What is left then, the next one does.
const RUN_SECONDS: i64 = 3 * 3600;
/// Number of retries before a run counts as failed.
const RETRIES: i32 = 2;
/// Jobs kept for people to look at.
const SUCCESSFUL: i32 = 1;
const FAILED: i32 = 3;

/// The objects of the job.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Retention {
    /// Whom a cloud may bind an identity to.
    pub(crate) service_account: ServiceAccount,
    /// Replicas to sweep.
    pub(crate) config_map: ConfigMap,
    /// When.
    pub(crate) cron_job: CronJob,
}

/// The job, where the spec gives it an identity: without one nothing is deleted.
#[must_use]
pub(crate) fn retention(fleet: &Fleet<'_>) -> Option<Retention> {
    let replication = fleet.cluster.spec.replication.as_ref()?;
    let retention = replication.retention.as_ref().filter(|retention| retention.has_identity())?;
    Some(Retention {
        service_account: service_account(fleet, retention),
        config_map: config_map(fleet, replication, retention),
        cron_job: cron_job(fleet, replication, retention),
    })
}

fn metadata(fleet: &Fleet<'_>) -> ObjectMeta {
    let mut metadata = fleet.metadata(names::retention(fleet.name));
    metadata.labels.get_or_insert_default().insert(labels::COMPONENT.into(), labels::component::RETENTION.into());
    metadata
}

fn service_account(fleet: &Fleet<'_>, retention: &ReplicaRetention) -> ServiceAccount {
    let annotations = &retention.service_account_annotations;
    let annotations = (!annotations.is_empty()).then(|| annotations.clone());
    ServiceAccount {
        metadata: ObjectMeta { annotations, ..metadata(fleet) },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn config_map(fleet: &Fleet<'_>, replication: &Replication, retention: &ReplicaRetention) -> ConfigMap {
    let config = RetentionConfig {
        format: FORMAT,
        cluster_id: fleet.id,
        s3: replication.s3.clone(),
        grace_hours: retention.grace_hours,
        log: fleet.cluster.spec.pod_template.log.clone(),
        log_format: LogFormat::Json,
    };
    ConfigMap {
        metadata: metadata(fleet),
        data: Some([(FILE.to_owned(), config.render())].into()),
        ..ConfigMap::default()
    }
}

fn cron_job(fleet: &Fleet<'_>, replication: &Replication, retention: &ReplicaRetention) -> CronJob {
    CronJob {
        metadata: metadata(fleet),
        spec: Some(CronJobSpec {
            schedule: retention.cron.clone(),
            time_zone: Some("Etc/UTC".into()),
            concurrency_policy: Some("Forbid".into()),
            starting_deadline_seconds: Some(STARTING_SECONDS),
            successful_jobs_history_limit: Some(SUCCESSFUL),
            failed_jobs_history_limit: Some(FAILED),
            // Who pauses a cluster to look at something wants nothing deleted meanwhile.
            suspend: Some(fleet.cluster.spec.paused),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { labels: metadata(fleet).labels, ..ObjectMeta::default() }),
                spec: Some(JobSpec {
                    backoff_limit: Some(RETRIES),
                    active_deadline_seconds: Some(RUN_SECONDS),
                    template: pod(fleet, replication, retention),
                    ..JobSpec::default()
                }),
            },
        }),
        status: None,
    }
}

fn pod(fleet: &Fleet<'_>, replication: &Replication, retention: &ReplicaRetention) -> PodTemplateSpec {
    let template = &fleet.cluster.spec.pod_template;
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::retention(fleet.name),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let authorities = replication.s3.ca_config_map.as_ref();
    let (volumes, mounts) = [place(config, CONFIG_FOLDER, true)]
        .into_iter()
        .chain(authorities.map(|name| place(config_map_volume("s3-ca", name), S3_CA_FOLDER, true)))
        .unzip();
    let environment: Option<Vec<EnvVar>> = retention.credentials_secret.as_deref().map(credentials);
    let pull = &template.image_pull_secrets;
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: metadata(fleet).labels, ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(names::retention(fleet.name)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".into()),
            security_context: Some(pod_security()),
            containers: vec![Container {
                name: CONTAINER.into(),
                image: Some(fleet.image.into()),
                args: Some(vec!["retain".into(), "--config".into(), format!("{CONFIG_FOLDER}/{FILE}")]),
                env: environment,
                resources: Some(ResourceRequirements {
                    requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
                    limits: Some(quantities(&[("memory", "256Mi")])),
                    claims: None,
                }),
                security_context: Some(container_security()),
                // What went wrong is then in the pod's status, for `kubectl describe`.
                termination_message_policy: Some("FallbackToLogsOnError".into()),
                volume_mounts: Some(mounts),
                ..Container::default()
            }],
            volumes: Some(volumes),
            tolerations: (!template.tolerations.is_empty()).then(|| template.tolerations.clone()),
            node_selector: (!template.node_selector.is_empty()).then(|| template.node_selector.clone()),
            image_pull_secrets: (!pull.is_empty())
                .then(|| pull.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
            ..PodSpec::default()
        }),
    }
}
