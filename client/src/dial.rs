//! Routes to the nodes.

use std::collections::BTreeMap;
use std::io;

use async_trait::async_trait;
use keyfleet_api::wire;
use keyfleet_threshold::identifiers::NodeIndex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Fleet;

/// Stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Route to one port of each node: `kms` for a [`Client`](crate::Client), `round` for an [`Observer`](crate::Observer).
/// The pin says who answers there, so the route need not be trusted.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens a fresh connection to a node.
    ///
    /// # Errors
    /// When the node cannot be reached.
    async fn dial(&self, node: NodeIndex) -> io::Result<Box<dyn Duplex>>;
}

/// Route by TCP to known addresses: host and port by index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Direct(pub BTreeMap<NodeIndex, String>);

impl Direct {
    /// Returns the route to this port of the host names that a fleet's nodes have inside their Kubernetes.
    #[must_use]
    pub fn by_host_names(fleet: &Fleet, cluster: &str, namespace: &str, port: u16) -> Self {
        let addresses = fleet.nodes.keys().map(|node| {
            let host = wire::node_host(cluster, node.value(), namespace);
            (*node, format!("{host}:{port}"))
        });
        Self(addresses.collect())
    }
}

#[async_trait]
impl Dial for Direct {
    async fn dial(&self, node: NodeIndex) -> io::Result<Box<dyn Duplex>> {
        let address = self.0.get(&node).ok_or_else(|| io::Error::other("no address is given for this node"))?;
        let tcp = TcpStream::connect(address).await;
        let tcp = tcp.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        tcp.set_nodelay(true)?;
        Ok(Box::new(tcp))
    }
}
