//! A node that proves what it holds by signatures of another day: it stands in front of a real one, with its identity, and
//! answers every challenge with what was signed over one that nobody sends any more.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use keyfleet_api::tls::{Acceptor, Connector, Pins};
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_api::v1::round_server::{Round, RoundServer};
use keyfleet_api::{channel, report, v1};
use keyfleet_node::grpc::transport;
use keyfleet_threshold::identity::IdentitySecretKey;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

const OTHER_DAY: [u8; 32] = [1; 32];

struct Liar {
    identity: Arc<IdentitySecretKey>,
    behind: String,
}

/// Starts the liar in front of the node at `behind`; answers where it listens.
pub(crate) async fn start(identity: IdentitySecretKey, behind: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    let acceptor = Acceptor::new(&identity, Pins::default()).expect("an identity makes TLS");
    let routes = tonic::service::Routes::new(RoundServer::new(Liar { identity: Arc::new(identity), behind }));
    tokio::spawn(transport::serve(listener, acceptor, routes, std::future::pending()));
    address
}

impl Liar {
    /// The real node, with the caller's own token.
    async fn node(&self) -> Result<RoundClient<tonic::transport::Channel>, Status> {
        let connector = Connector::new(None, self.identity.public()).expect("a pin makes TLS");
        let channel = channel::connect(self.behind.clone(), connector).await;
        channel.map(RoundClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait::async_trait]
impl Round for Liar {
    type FollowStream = Items<v1::FollowItem>;
    type FetchStream = Items<v1::FetchItem>;

    async fn follow(&self, mut request: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let asked = std::mem::replace(&mut request.get_mut().challenge, OTHER_DAY.to_vec());
        let stream = self.node().await?.follow(request).await?.into_inner();
        let identity = self.identity.clone();
        let lies = stream.map(move |item| {
            let mut item = item?;
            if let Some(v1::follow_item::Item::Report(signed)) = &mut item.item {
                *signed = pretend(signed, &identity, &asked);
            }
            Ok(item)
        });
        Ok(Response::new(Box::pin(lies)))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Ok(Response::new(Box::pin(self.node().await?.fetch(request).await?.into_inner())))
    }

    async fn prove(&self, mut request: Request<v1::ProveRequest>) -> Result<Response<v1::SignedReport>, Status> {
        let asked = std::mem::replace(&mut request.get_mut().challenge, OTHER_DAY.to_vec());
        let signed = self.node().await?.prove(request).await?.into_inner();
        Ok(Response::new(pretend(&signed, &self.identity, &asked)))
    }
}

/// Signs the report anew, as if it answered what was asked.
fn pretend(signed: &v1::SignedReport, identity: &IdentitySecretKey, asked: &[u8]) -> v1::SignedReport {
    let report = report::verified(signed, &identity.public()).expect("the node signs its reports");
    report::sign(&v1::Report { challenge: asked.to_vec(), ..report }, identity)
}
