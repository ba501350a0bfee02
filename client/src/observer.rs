//! Messages of rounds, read by somebody who takes no part: an auditor.

use std::sync::Arc;

use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::round::{Blob, SignedMessage};
use tokio::time::timeout;
use tonic::Request;
use tonic::transport::Channel;

use crate::ask::{error_of, innermost};
use crate::{Dial, Fleet, NodeError, Patience, Tokens};
use keyfleet_api::limits::FETCH_DIGESTS_MAX;
use keyfleet_api::tls::Connector;
use keyfleet_api::v1::round_client::RoundClient;
use keyfleet_api::{channel, messages, v1, wire};

/// Reads the streams of a fleet's nodes, as whom a rule with the verb `Observe` lets.
///
/// Nothing that it hands over is checked: a [`Transcript`](keyfleet_threshold::round::Transcript) does that.
pub struct Observer {
    fleet: Fleet,
    dial: Arc<dyn Dial>,
    tokens: Arc<dyn Tokens>,
    patience: Patience,
}

impl Observer {
    /// An observer of `fleet`. `dial` leads to the port `round` of each node.
    #[must_use]
    pub fn new(fleet: Fleet, dial: Arc<dyn Dial>, tokens: Arc<dyn Tokens>, patience: Patience) -> Self {
        Self { fleet, dial, tokens, patience }
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// All that `node` has said by now in rounds that it still remembers, oldest first.
    ///
    /// # Errors
    /// Why it did not tell, or not all of it in time.
    pub async fn said(&self, node: NodeIndex) -> Result<Vec<SignedMessage>, NodeError> {
        let read = async {
            let request = v1::FollowRequest { cluster_id: self.fleet.cluster.0.to_vec(), ..Default::default() };
            let request = self.authorized(node, request).await?;
            let stream = self.client(node).await?.follow(request).await;
            let mut stream = stream.map_err(|status| error_of(&status))?.into_inner();
            let mut said = Vec::new();
            while let Some(item) = stream.message().await.map_err(|status| error_of(&status))? {
                match item.item {
                    Some(v1::follow_item::Item::Row(row)) => {
                        if let Some(Blob::Message(message)) = messages::read_row(&row) {
                            said.push(message);
                        }
                    }
                    Some(v1::follow_item::Item::CaughtUp(_)) => return Ok(said),
                    Some(v1::follow_item::Item::Report(_)) | None => {}
                }
            }
            Err(NodeError::NotNow("it closed the stream".to_owned()))
        };
        timeout(self.patience.request, read).await.unwrap_or(Err(NodeError::Silent))
    }

    /// The messages and prekey sets with these digests, as far as `node` has them.
    ///
    /// # Errors
    /// Why it did not hand them over.
    pub async fn fetch(&self, node: NodeIndex, wanted: &[Digest]) -> Result<Vec<Blob>, NodeError> {
        let read = async {
            let mut client = self.client(node).await?;
            let mut found = Vec::new();
            for wanted in wanted.chunks(FETCH_DIGESTS_MAX) {
                let digests = wanted.iter().map(|digest| digest.0.to_vec()).collect();
                let request = v1::FetchRequest { cluster_id: self.fleet.cluster.0.to_vec(), digests };
                let stream = client.fetch(self.authorized(node, request).await?).await;
                let mut stream = stream.map_err(|status| error_of(&status))?.into_inner();
                while let Some(item) = stream.message().await.map_err(|status| error_of(&status))? {
                    // What was not asked for is dropped.
                    found.extend(messages::read_found(&item).filter(|blob| wanted.contains(&blob.digest())));
                }
            }
            Ok(found)
        };
        timeout(self.patience.request, read).await.unwrap_or(Err(NodeError::Silent))
    }

    async fn client(&self, node: NodeIndex) -> Result<RoundClient<Channel>, NodeError> {
        let unreachable = |error: &(dyn std::error::Error + 'static)| NodeError::Unreachable(innermost(error));
        let pin = self.fleet.nodes.get(&node).copied().ok_or(NodeError::Silent)?;
        let connector = Connector::new(None, pin).map_err(|error| unreachable(&error))?;
        let dial = self.dial.clone();
        let dial = move || {
            let dial = dial.clone();
            async move { dial.dial(node).await }
        };
        channel::connect_over(dial, connector).await.map(RoundClient::new).map_err(|error| unreachable(&error))
    }

    async fn authorized<T>(&self, node: NodeIndex, message: T) -> Result<Request<T>, NodeError> {
        let token = self.tokens.token(node, &wire::audience(self.fleet.cluster, node.value()), false).await;
        let mut request = Request::new(message);
        let header = token.and_then(|token| token.authorization()).map_err(NodeError::NoToken)?;
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}
