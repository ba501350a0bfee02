//! Channels over TLS by pin.

use std::future::Future;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::limits::KEEP_ALIVE_SECONDS;
use crate::tls::Connector;

/// Timeout of one connection, handshake included.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to the node at `address` (host and port). `connector` checks which node answers.
///
/// # Errors
/// When the node cannot be reached, or another one answers.
pub async fn connect(address: String, connector: Connector) -> Result<Channel, tonic::transport::Error> {
    connect_over(move || dial_tcp(address.clone()), connector).await
}

async fn dial_tcp(address: String) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(&address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A channel over whatever `dial` opens. It dials again by itself when a connection is lost.
///
/// # Errors
/// When there is no connection, or another node answers.
pub async fn connect_over<D, F, S>(dial: D, connector: Connector) -> Result<Channel, tonic::transport::Error>
where
    D: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let (dialled, connector) = (dial(), connector.clone());
        async move { Ok::<_, io::Error>(TokioIo::new(connector.connect(dialled.await?).await?)) }
    });
    Endpoint::from_static("http://node.keyfleet.internal")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_SECONDS))
        .connect_with_connector(connect)
        .await
}
