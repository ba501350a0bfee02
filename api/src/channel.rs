//! Channels over TLS by pin.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::limits::KEEP_ALIVE_SECONDS;
use crate::tls::Connector;

/// A connection takes at most so long.
const CONNECT: Duration = Duration::from_secs(10);

/// A channel to the node at `address` (host and port), whoever `connector` takes it for.
///
/// # Errors
/// When it cannot be reached, or is another node.
pub async fn connect(address: String, connector: Connector) -> Result<Channel, tonic::transport::Error> {
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let (address, connector) = (address.clone(), connector.clone());
        async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(tcp).await?))
        }
    });
    Endpoint::from_static("http://node.keyfleet.internal")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_SECONDS))
        .connect_with_connector(connect)
        .await
}
