//! Servers over TLS by pin.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream;
use keyfleet_api::tls::Acceptor;
use keyfleet_threshold::identifiers::NodeIndex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// Timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(keyfleet_api::limits::KEEP_ALIVE_SECONDS);

/// Identity of the other end: a peer by its pin, or somebody who showed no certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub Option<NodeIndex>);

struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves `routes` until `stop` resolves. Handshakes run beside each other: a slow caller holds up nobody.
///
/// # Errors
/// tonic's.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    routes: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (ready, accepted) = mpsc::channel(64);
    let accept = tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                // Out of file descriptors, say: an immediate retry would only burn the processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let _ = tcp.set_nodelay(true);
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                if let Ok(Ok((stream, peer))) = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                    let _ = ready.send(PeerStream { stream, peer: Peer(peer) }).await;
                }
            });
        }
    });
    let incoming = stream::unfold(accepted, |mut accepted| async move {
        let stream = accepted.recv().await?;
        Some((Ok::<_, io::Error>(stream), accepted))
    });
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop)
        .await;
    accept.abort();
    served
}
