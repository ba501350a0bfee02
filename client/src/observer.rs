//! Messages of rounds, read by somebody who takes no part: an auditor.

use std::sync::Arc;

use keyfleet_threshold::identifiers::{Digest, NodeIndex};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::round::{Blob, SignedMessage};
use tokio::time::timeout;
use tonic::Request;
use tonic::transport::Channel;

use crate::ask::{error_of, unreachable};
use crate::{Dial, Fleet, NodeError, Patience, Tokens};
use keyfleet_api::round_reader::{self, Fetched, Heard, RoundReader, fetch_requests};
use keyfleet_api::tls::Connector;
use keyfleet_api::{channel, wire};

/// Reads the streams of a fleet's nodes. The caller needs an access rule with the verb `Observe`.
///
/// Signatures of what it hands over are not checked: a [`Transcript`](keyfleet_threshold::round::Transcript) does that.
pub struct Observer {
    fleet: Fleet,
    dial: Arc<dyn Dial>,
    tokens: Arc<dyn Tokens>,
    patience: Patience,
}

impl Observer {
    /// Makes an observer of `fleet`. `dial` leads to the port `round` of each node.
    #[must_use]
    pub fn new(fleet: Fleet, dial: Arc<dyn Dial>, tokens: Arc<dyn Tokens>, patience: Patience) -> Self {
        Self { fleet, dial, tokens, patience }
    }

    /// Returns the public facts of the fleet.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Reads all messages that `node` has sent by now in rounds that it still remembers, oldest first.
    ///
    /// # Errors
    /// When the node refuses, or does not send all of them in time.
    pub async fn messages(&self, node: NodeIndex) -> Result<Vec<SignedMessage>, NodeError> {
        let read = async {
            let mut reader = RoundReader::new(self.fleet.cluster, node, self.pin(node)?);
            let request = self.authorized(node, reader.request(&[])).await?;
            let stream = round_reader::client(self.channel(node).await?).follow(request).await;
            let mut stream = stream.map_err(|status| error_of(&status))?.into_inner();
            let mut sent = Vec::new();
            while let Some(item) = stream.message().await.map_err(|status| error_of(&status))? {
                match reader.take(item).map_err(|error| NodeError::NotNow(error.to_string()))? {
                    Some(Heard::Row { blob: Blob::Message(message), .. }) => sent.push(message),
                    Some(Heard::CaughtUp) => return Ok(sent),
                    Some(Heard::Row { .. } | Heard::Report(_) | Heard::Kept(_)) | None => {}
                }
            }
            Err(NodeError::NotNow("the node closed the stream".to_owned()))
        };
        timeout(self.patience.request, read).await.unwrap_or(Err(NodeError::Silent))
    }

    /// Fetches the messages with these digests, as far as `node` has them.
    ///
    /// # Errors
    /// When the node refuses, or does not send them in time.
    pub async fn fetch(&self, node: NodeIndex, wanted: &[Digest]) -> Result<Vec<Blob>, NodeError> {
        let read = async {
            let channel = self.channel(node).await?;
            let mut found = Vec::new();
            for request in fetch_requests(self.fleet.cluster, wanted) {
                let fetched = Fetched::ask(&channel, self.authorized(node, request).await?).await;
                let mut fetched = fetched.map_err(|status| error_of(&status))?;
                while let Some(blob) = fetched.next().await.map_err(|status| error_of(&status))? {
                    found.push(blob);
                }
            }
            Ok(found)
        };
        timeout(self.patience.request, read).await.unwrap_or(Err(NodeError::Silent))
    }

    fn pin(&self, node: NodeIndex) -> Result<IdentityPublicKey, NodeError> {
        self.fleet.nodes.get(&node).copied().ok_or(NodeError::Silent)
    }

    async fn channel(&self, node: NodeIndex) -> Result<Channel, NodeError> {
        let connector = Connector::new(None, self.pin(node)?).map_err(|error| unreachable(&error))?;
        let dial = self.dial.clone();
        let dial = move || {
            let dial = dial.clone();
            async move { dial.dial(node).await }
        };
        channel::connect_over(dial, connector).await.map_err(|error| unreachable(&error))
    }

    async fn authorized<T>(&self, node: NodeIndex, message: T) -> Result<Request<T>, NodeError> {
        let token = self.tokens.token(node, &wire::audience(self.fleet.cluster, node.value()), false).await;
        let mut request = Request::new(message);
        let header = token.and_then(|token| token.authorization()).map_err(NodeError::NoToken)?;
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}
