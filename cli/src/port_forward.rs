//! Connections to nodes through the API server, as `kubectl port-forward` makes them.

use std::io;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use keyfleet_client::{Dial, Duplex};
use keyfleet_crds::names;
use keyfleet_threshold::identifiers::NodeIndex;
use kube::Api;

use crate::kube_client::{KubeClient, innermost};

/// Port-forwards to one port of a fleet's pods.
pub(crate) struct PortForward {
    pods: Api<Pod>,
    cluster: String,
    port: u16,
}

impl PortForward {
    pub(crate) fn new(kube: &KubeClient, cluster: String, port: u16) -> Self {
        Self { pods: Api::namespaced(kube.client.clone(), &kube.namespace), cluster, port }
    }
}

#[async_trait]
impl Dial for PortForward {
    async fn dial(&self, node: NodeIndex) -> io::Result<Box<dyn Duplex>> {
        let pod = names::node(&self.cluster, node.value());
        let forward = self.pods.portforward(&pod, &[self.port]).await;
        let mut forward =
            forward.map_err(|error| io::Error::other(format!("port-forward to pod {pod}: {}", innermost(&error))))?;
        let stream = forward.take_stream(self.port);
        let stream = stream.ok_or_else(|| io::Error::other(format!("port-forward to pod {pod} gave no stream")))?;
        Ok(Box::new(stream))
    }
}
