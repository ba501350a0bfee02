//! Services, NetworkPolicy and PodDisruptionBudget.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keyfleet_api::wire;
use keyfleet_crds::cluster::pods::NetworkPolicyMode;
use keyfleet_crds::{labels, names};

use super::Fleet;

/// The label by which a NetworkPolicy knows the operator's pods.
pub(crate) const OPERATOR_COMPONENT: &str = "operator";

const DNS_PORT: u16 = 53;

/// The headless Service: a host name per node, ready or not, since nodes must find each other to become ready.
#[must_use]
pub(crate) fn headless_service(fleet: &Fleet<'_>) -> Service {
    let ports = vec![
        port(wire::ROUND_PORT_NAME, wire::ROUND_PORT),
        port(wire::KMS_PORT_NAME, wire::KMS_PORT),
        port(wire::HTTP_PORT_NAME, wire::HTTP_PORT),
    ];
    Service {
        metadata: fleet.metadata(names::headless_service(fleet.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(fleet.selector()),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service by which callers reach any ready node.
#[must_use]
pub(crate) fn client_service(fleet: &Fleet<'_>) -> Service {
    Service {
        metadata: fleet.metadata(names::service(fleet.name)),
        spec: Some(ServiceSpec {
            selector: Some(fleet.selector()),
            ports: Some(vec![port(wire::KMS_PORT_NAME, wire::KMS_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The disruption budget. An integer: percentages and `maxUnavailable` need a `scale` that a pod of a custom resource has not.
/// `min_available` is the number of pods that a drain leaves.
#[must_use]
pub(crate) fn disruption_budget(fleet: &Fleet<'_>, min_available: u32) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: fleet.metadata(names::service(fleet.name)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::try_from(min_available).unwrap_or(i32::MAX))),
            selector: Some(LabelSelector { match_labels: Some(fleet.selector()), match_expressions: None }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            max_unavailable: None,
        }),
        status: None,
    }
}

/// The policy, unless none is wanted: 7400 for nodes and the operator, 7443 and 9090 for the cluster.
#[must_use]
pub(crate) fn network_policy(fleet: &Fleet<'_>, operator_namespace: &str) -> Option<NetworkPolicy> {
    let wanted = &fleet.cluster.spec.network_policy;
    if wanted.mode == NetworkPolicyMode::None {
        return None;
    }
    let nodes = pods(fleet.selector(), None);
    let operator = BTreeMap::from([
        (labels::APP_NAME.to_owned(), "keyfleet".to_owned()),
        (labels::COMPONENT.to_owned(), OPERATOR_COMPONENT.to_owned()),
    ]);
    let ingress = vec![
        NetworkPolicyIngressRule {
            from: Some(vec![nodes.clone(), pods(operator, Some(operator_namespace))]),
            ports: Some(vec![tcp(wire::ROUND_PORT)]),
        },
        NetworkPolicyIngressRule { from: None, ports: Some(vec![tcp(wire::KMS_PORT), tcp(wire::HTTP_PORT)]) },
    ];
    let egress = (wanted.mode == NetworkPolicyMode::IngressAndEgress).then(|| {
        let dns = NetworkPolicyEgressRule {
            to: None,
            ports: Some(vec![tcp(DNS_PORT), NetworkPolicyPort { protocol: Some("UDP".into()), ..tcp(DNS_PORT) }]),
        };
        let peers = NetworkPolicyEgressRule { to: Some(vec![nodes]), ports: Some(vec![tcp(wire::ROUND_PORT)]) };
        let places = wanted.egress_to.iter().map(|place| NetworkPolicyEgressRule {
            to: Some(vec![NetworkPolicyPeer {
                ip_block: Some(IPBlock { cidr: place.cidr.clone(), except: None }),
                ..NetworkPolicyPeer::default()
            }]),
            ports: place.port.map(|port| vec![tcp(port)]),
        });
        [dns, peers].into_iter().chain(places).collect()
    });
    let types = if egress.is_some() { vec!["Ingress".into(), "Egress".into()] } else { vec!["Ingress".into()] };
    Some(NetworkPolicy {
        metadata: fleet.metadata(names::headless_service(fleet.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(fleet.selector()), match_expressions: None }),
            policy_types: Some(types),
            ingress: Some(ingress),
            egress,
        }),
    })
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: i32::from(number),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.into())),
        ..ServicePort::default()
    }
}

fn tcp(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".into()),
        ..NetworkPolicyPort::default()
    }
}

fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

fn pods(labels: BTreeMap<String, String>, namespace: Option<&str>) -> NetworkPolicyPeer {
    let namespace =
        namespace.map(|name| selector(BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())])));
    NetworkPolicyPeer { pod_selector: Some(selector(labels)), namespace_selector: namespace, ip_block: None }
}
