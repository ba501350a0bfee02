//! Reading of one node's `Round` service: how far its outbox was read, which of its rows count, and which of the blobs that it
//! hands out were asked for.
//!
//! Its peers, the operator and auditors read the same streams. Each connects, shows itself and waits in its own way; what is
//! equal for all of them is here.

use std::collections::BTreeSet;
use std::time::Duration;

use keyfleet_threshold::feed::says_itself;
use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::identity::IdentityPublicKey;
use keyfleet_threshold::possession::{Asked, Challenge, Claimed, Claims};
use keyfleet_threshold::round::{Blob, ShownEpoch};
use tokio::time::{Instant, timeout_at};
use tonic::client::GrpcService;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::{Body, Bytes, StdError};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::limits::{FETCH_DIGESTS_MAX, ITEM_BYTES_MAX};
use crate::v1::follow_item::Item;
use crate::v1::round_client::RoundClient;
use crate::{kept_epoch, messages, report, v1};

/// Timeout of one fetch, to the end of its answer.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of one call for proofs.
const PROVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reader of one node's outbox.
#[derive(Clone, Debug)]
pub struct RoundReader {
    cluster: ClusterId,
    node: NodeIndex,
    pin: IdentityPublicKey,
    /// The last row that was read, and of which outbox.
    position: u64,
    lineage: Vec<u8>,
}

/// Content of one item of a stream.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "an item is moved once, from the stream to whoever takes it")]
pub enum Heard {
    /// A row that says something of the node's own. Signatures of messages are not checked.
    Row {
        /// The attempt that the node says it belongs to.
        number: u64,
        /// Content of the row.
        blob: Blob,
    },
    /// The node's signed report.
    Report(Box<v1::Report>),
    /// An epoch that the node keeps. Neither certificate nor plan is checked.
    Kept(Box<ShownEpoch>),
    /// All rows that were there when the stream began have come.
    CaughtUp,
}

/// Report that is not the node's own. Nothing more of such a stream counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Report that another key signed, or none.
    #[error("the report is not signed by the node")]
    NotSigned,
    /// Report that names another cluster or index.
    #[error("the report is another node's")]
    NotItsOwn,
}

/// Why a node proved nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The node refused, or did not answer in time.
    #[error("the node proves nothing: {0}")]
    Status(#[from] Status),
    /// The node is at fault.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl RoundReader {
    /// Begins at the start of the outbox of `node`, whose pinned identity is `pin`.
    #[must_use]
    pub fn new(cluster: ClusterId, node: NodeIndex, pin: IdentityPublicKey) -> Self {
        Self { cluster, node, pin, position: 0, lineage: Vec::new() }
    }

    /// Returns the identity that the node is read under.
    #[must_use]
    pub fn pin(&self) -> &IdentityPublicKey {
        &self.pin
    }

    /// Returns the last position that was read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Requests all rows that were not read yet. The node's report answers `challenge`, which may be empty.
    #[must_use]
    pub fn request(&self, challenge: &[u8]) -> v1::FollowRequest {
        v1::FollowRequest {
            cluster_id: self.cluster.0.to_vec(),
            after_position: self.position,
            lineage: self.lineage.clone(),
            challenge: challenge.to_vec(),
        }
    }

    /// Asks the node for the proofs of [`RoundReader::prove_request`], on a connection to it.
    ///
    /// # Errors
    /// The node's refusal, or a report that is not its own.
    pub async fn prove(
        &self,
        channel: &Channel,
        mut request: Request<v1::ProveRequest>,
    ) -> Result<v1::Report, ProveError> {
        request.set_timeout(PROVE_TIMEOUT);
        let signed = RoundClient::new(channel.clone()).prove(request).await?.into_inner();
        Ok(self.own(&signed)?)
    }

    /// Requests proofs over `challenge`.
    #[must_use]
    pub fn prove_request(&self, challenge: &Challenge) -> v1::ProveRequest {
        v1::ProveRequest { cluster_id: self.cluster.0.to_vec(), challenge: challenge.to_vec() }
    }

    /// Reads the claims of a report that answers a challenge. They are unchecked.
    #[must_use]
    pub fn claims(&self, report: &v1::Report, asked: Asked) -> Claims {
        let claimed = report.held.iter().map(|held| Claimed {
            number: EpochNumber(held.number),
            vector: messages::digest(&held.vector_digest),
            possession: held.possession.clone(),
        });
        Claims::of(self.cluster, self.node, claimed, &report.challenge, asked)
    }

    fn own(&self, signed: &v1::SignedReport) -> Result<v1::Report, ReportError> {
        let report = report::verified(signed, &self.pin).ok_or(ReportError::NotSigned)?;
        let is_own = report.cluster_id == self.cluster.0 && report.node_index == self.node.value();
        is_own.then_some(report).ok_or(ReportError::NotItsOwn)
    }

    /// Takes a refusal of [`RoundReader::request`]. A node with another outbox, or one that went back, is read anew.
    pub fn refused(&mut self, status: &Status) {
        if matches!(status.code(), Code::FailedPrecondition | Code::OutOfRange) {
            *self = Self::new(self.cluster, self.node, self.pin);
        }
    }

    /// Takes the next item of the stream. `None` for one that does not count: it is malformed, or a row that is not the node's own.
    ///
    /// # Errors
    /// When a report is not the node's own.
    pub fn take(&mut self, item: v1::FollowItem) -> Result<Option<Heard>, ReportError> {
        Ok(match item.item {
            None => None,
            Some(Item::CaughtUp(_)) => Some(Heard::CaughtUp),
            Some(Item::Report(signed)) => {
                let report = self.own(&signed)?;
                // Positions belong to the outbox that the report names.
                self.lineage.clone_from(&report.lineage);
                Some(Heard::Report(Box::new(report)))
            }
            Some(Item::KeptEpoch(shown)) => {
                kept_epoch::read(self.cluster, shown).map(|shown| Heard::Kept(Box::new(shown)))
            }
            Some(Item::Row(row)) => {
                self.position = row.position;
                let blob = messages::read_row(&row).filter(|blob| says_itself(blob, self.node));
                blob.map(|blob| Heard::Row { number: row.number, blob })
            }
        })
    }
}

/// Requests these digests, each time as many as one request may name.
pub fn fetch_requests(cluster: ClusterId, wanted: &[Digest]) -> impl Iterator<Item = v1::FetchRequest> {
    wanted.chunks(FETCH_DIGESTS_MAX).map(move |wanted| v1::FetchRequest {
        cluster_id: cluster.0.to_vec(),
        digests: wanted.iter().map(|digest| digest.0.to_vec()).collect(),
    })
}

/// A client of one node's `Round` service. An item above the limit ends its stream before it is read.
pub fn client<T>(node: T) -> RoundClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    RoundClient::new(node).max_decoding_message_size(ITEM_BYTES_MAX)
}

/// Answer to one request by digest. It has one item for each digest at the most, and ends by [`FETCH_TIMEOUT`].
pub struct Fetched<S = Streaming<v1::FetchItem>> {
    /// Digests that were asked for and did not come yet.
    wanted: BTreeSet<Digest>,
    stream: S,
    deadline: Instant,
}

impl Fetched {
    /// Asks one node.
    ///
    /// # Errors
    /// The node's refusal, or the failure of the connection.
    pub async fn ask(channel: &Channel, request: Request<v1::FetchRequest>) -> Result<Self, Status> {
        let deadline = Instant::now() + FETCH_TIMEOUT;
        let wanted = request.get_ref().digests.iter().filter_map(|bytes| messages::digest(bytes)).collect();
        let stream = client(channel.clone()).fetch(request).await?.into_inner();
        Ok(Self { wanted, stream, deadline })
    }
}

impl<S: Stream<Item = Result<v1::FetchItem, Status>> + Unpin> Fetched<S> {
    /// Returns the next blob that was asked for; `None` at the end.
    ///
    /// # Errors
    /// When the stream ended early or lasts too long, or the node is at fault: it hands out what was not asked for, or the same
    /// again. Nothing more of its answer is read then.
    pub async fn next(&mut self) -> Result<Option<Blob>, Status> {
        let next = timeout_at(self.deadline, self.stream.next()).await;
        let Some(item) = next.map_err(|_| Status::deadline_exceeded("the node's answer does not end"))? else {
            return Ok(None);
        };
        let item = item?;
        // What nobody asked for is not even decoded.
        let asked = messages::digest(&item.digest).filter(|digest| self.wanted.remove(digest));
        let blob = asked.and_then(|digest| messages::read_found(&item).filter(|blob| blob.digest() == digest));
        blob.map(Some).ok_or_else(|| Status::data_loss("the node hands out what was not asked for"))
    }
}

#[cfg(test)]
mod tests {
    use keyfleet_threshold::identity::IdentitySecretKey;
    use keyfleet_threshold::round::{Body, SignedMessage};
    use tonic::Response;
    use tonic::codegen::tokio_stream;

    use crate::v1::round_server::{Round, RoundServer};

    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn identity(byte: u8) -> IdentitySecretKey {
        IdentitySecretKey::from_seed(&[byte; 32])
    }

    fn node(index: u32) -> NodeIndex {
        NodeIndex::new(index).unwrap()
    }

    /// A reader of node 1, whose identity has seed 1.
    fn reader() -> RoundReader {
        RoundReader::new(CLUSTER, node(1), identity(1).public())
    }

    fn message(sender: u32) -> SignedMessage {
        let body = Body::Have { dealer: node(2), bundle: Digest([3; 32]) };
        SignedMessage::sign(Digest([5; 32]), node(sender), body, &identity(1))
    }

    fn row(position: u64, sender: u32) -> v1::FollowItem {
        let said = v1::outbox_row::Said::Message(messages::message(&message(sender)));
        v1::FollowItem { item: Some(Item::Row(v1::OutboxRow { position, number: 4, said: Some(said) })) }
    }

    fn reported(index: u32, signer: u8) -> v1::FollowItem {
        let report = v1::Report {
            cluster_id: CLUSTER.0.to_vec(),
            node_index: index,
            lineage: vec![8; 16],
            ..v1::Report::default()
        };
        v1::FollowItem { item: Some(Item::Report(report::sign(&report, &identity(signer)))) }
    }

    #[test]
    fn reading_goes_on_after_the_last_row_of_the_same_outbox() {
        let mut reader = reader();
        assert!(matches!(reader.take(reported(1, 1)), Ok(Some(Heard::Report(_)))));
        assert!(matches!(reader.take(row(9, 1)), Ok(Some(Heard::Row { number: 4, .. }))));
        assert_eq!(reader.take(row(10, 2)), Ok(None), "the node speaks in another's name");
        let request = reader.request(&[1]);
        assert_eq!((request.after_position, request.lineage, request.challenge), (10, vec![8; 16], vec![1]));
        reader.refused(&Status::unavailable("it starts"));
        assert_eq!(reader.position(), 10, "the outbox is the same");
        reader.refused(&Status::out_of_range("it went back"));
        let request = reader.request(&[]);
        assert_eq!((request.after_position, request.lineage.len()), (0, 0), "rows of another outbox were skipped");
    }

    #[test]
    fn a_report_of_another_node_ends_the_stream() {
        let mut reader = reader();
        assert_eq!(reader.take(reported(1, 2)), Err(ReportError::NotSigned));
        assert_eq!(reader.take(reported(2, 1)), Err(ReportError::NotItsOwn));
        assert!(reader.request(&[]).lineage.is_empty(), "the position belongs to no such outbox");
    }

    #[test]
    fn requests_keep_to_the_limit_and_answers_to_the_request() {
        let wanted: Vec<_> = (0..=FETCH_DIGESTS_MAX).map(|i| Digest([u8::try_from(i % 256).unwrap(); 32])).collect();
        let sizes: Vec<_> = fetch_requests(CLUSTER, &wanted).map(|request| request.digests.len()).collect();
        assert_eq!(sizes, [FETCH_DIGESTS_MAX, 1]);
    }

    /// An answer of these items to a request for the message of node 1. It never ends where `ends` is false.
    fn fetched(
        items: Vec<v1::FetchItem>,
        ends: bool,
        within: Duration,
    ) -> Fetched<impl Stream<Item = Result<v1::FetchItem, Status>> + Unpin> {
        let items = tokio_stream::iter(items.into_iter().map(Ok));
        let rest: Box<dyn Stream<Item = Result<v1::FetchItem, Status>> + Unpin> =
            if ends { Box::new(tokio_stream::empty()) } else { Box::new(tokio_stream::pending()) };
        let wanted = BTreeSet::from([message(1).digest()]);
        Fetched { wanted, stream: items.chain(rest), deadline: Instant::now() + within }
    }

    fn handed_out(named: Digest, blob: &Blob) -> v1::FetchItem {
        v1::FetchItem { digest: named.0.to_vec(), found: Some(messages::found(blob)) }
    }

    /// A peer that hands out points without end would keep whoever asks it from its work.
    #[tokio::test]
    async fn an_answer_that_was_not_asked_for_ends_the_fetch() {
        let (asked, other) = (Blob::Message(message(1)), Blob::Message(message(2)));
        let good = handed_out(asked.digest(), &asked);
        let mut answer = fetched(vec![good.clone()], true, FETCH_TIMEOUT);
        assert_eq!(answer.next().await.unwrap(), Some(asked.clone()));
        assert_eq!(answer.next().await.unwrap(), None);
        let mut answer = fetched(vec![good.clone(), good], true, FETCH_TIMEOUT);
        assert_eq!(answer.next().await.unwrap(), Some(asked.clone()));
        assert!(answer.next().await.is_err(), "the same came twice");
        for item in [handed_out(other.digest(), &other), handed_out(asked.digest(), &other)] {
            assert!(fetched(vec![item], true, FETCH_TIMEOUT).next().await.is_err(), "nobody asked for it");
        }
    }

    /// The timeout of the call covers its beginning alone: a peer that sends no end would stop the reading of its own stream.
    #[tokio::test]
    async fn an_answer_that_does_not_end_is_given_up() {
        let mut answer = fetched(Vec::new(), false, Duration::ZERO);
        assert_eq!(answer.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    }

    /// A node whose answer to a fetch is one item of more bytes than an item has.
    struct Huge;

    #[tonic::async_trait]
    impl Round for Huge {
        type FollowStream = tokio_stream::Empty<Result<v1::FollowItem, Status>>;
        type FetchStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::FetchItem, Status>>>;

        async fn follow(&self, _: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
            Ok(Response::new(tokio_stream::empty()))
        }

        async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
            let item = v1::FetchItem { digest: vec![0; ITEM_BYTES_MAX], found: None };
            Ok(Response::new(tokio_stream::iter(vec![Ok(item)])))
        }

        async fn prove(&self, _: Request<v1::ProveRequest>) -> Result<Response<v1::SignedReport>, Status> {
            Ok(Response::new(v1::SignedReport::default()))
        }
    }

    #[tokio::test]
    async fn an_item_above_the_limit_is_not_read() {
        let mut node = client(RoundServer::new(Huge));
        let mut items = node.fetch(v1::FetchRequest::default()).await.unwrap().into_inner();
        let refused = items.message().await.map(|_| ()).expect_err("an item above the limit was read");
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    }
}
