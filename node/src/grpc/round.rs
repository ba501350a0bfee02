//! `Round`: what this node says, to peers, to the operator and to observers. Only what is durable is served.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use keyfleet_api::limits::FETCH_DIGESTS_MAX;
use keyfleet_api::v1::round_server::Round;
use keyfleet_api::{kept_epoch, messages, v1};
use keyfleet_crds::cluster::Access;
use keyfleet_crds::cluster::access::{self, KUBERNETES_ISSUER};
use keyfleet_threshold::feed::{self, Showing};
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use keyfleet_threshold::identity::IdentitySecretKey;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::fetch;
use super::peer_limits::{Caller, PeerLimits, Place};
use super::report::{Challenge, Reports, sign};
use super::transport::Peer;
use crate::round::{Epochs, Published};
use crate::serving::Tokens;
use crate::store::bundles::BundleFile;

/// Longest lifetime of a token of the operator, in seconds.
const OPERATOR_TOKEN_SECONDS: u64 = 3600;

/// The service `Round` of one node.
pub(crate) struct RoundApi {
    /// Node that these messages are of.
    pub(crate) owner: (ClusterId, NodeIndex),
    /// The state that was committed last, and what it says.
    pub(crate) published: watch::Receiver<Arc<Published>>,
    /// Shares, for proofs of possession.
    pub(crate) served: watch::Receiver<Arc<Epochs>>,
    /// The second file: what peers may ask for again.
    pub(crate) bundles: BundleFile,
    /// Signs reports.
    pub(crate) identity: Arc<IdentitySecretKey>,
    /// Checks the tokens of readers that are no peers; `None`: only peers read.
    pub(crate) readers: Option<Readers>,
    /// The last report's sequence number.
    pub(crate) sequence: Arc<AtomicU64>,
    /// Reports of what is published.
    pub(crate) reports: Arc<Reports>,
    /// Streams and calls of each caller.
    pub(crate) limits: PeerLimits,
}

/// Readers by token of what nodes say to each other: the operator, and everyone whom a rule with the verb `Observe` names.
pub struct Readers {
    /// Checks tokens.
    pub tokens: Arc<Tokens>,
    /// The operator's subject.
    pub operator: String,
    /// The rules.
    pub access: watch::Receiver<Arc<Access>>,
}

impl Readers {
    async fn admit(&self, token: &str) -> Result<Caller, Status> {
        let now = crate::clock::now_seconds();
        let kubernetes = [KUBERNETES_ISSUER.to_owned()];
        let caller = self.tokens.check(token, &kubernetes, OPERATOR_TOKEN_SECONDS, now).await;
        if caller.is_ok_and(|caller| caller.subject == self.operator) {
            return Ok(Caller::Operator);
        }
        let access = self.access.borrow().clone();
        let caller = self.tokens.check(token, &access.issuer_names(), access.max_token_seconds.into(), now).await;
        let caller = caller.map_err(|error| Status::unauthenticated(error.to_string()))?;
        if access.allows(&caller.issuer, &caller.subject, access::Request::Observe) {
            return Ok(Caller::Observer { issuer: caller.issuer, subject: caller.subject });
        }
        let (subject, issuer) = (caller.subject, caller.issuer);
        Err(Status::permission_denied(format!(
            "`{subject}` of issuer `{issuer}` may not read rounds: add a rule with the verb Observe to spec.access.rules of the \
             KmsCluster"
        )))
    }
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RoundApi {
    /// Returns who calls.
    async fn admit<T>(&self, request: &Request<T>, cluster: &[u8]) -> Result<Caller, Status> {
        let caller = if let Some(index) = request.extensions().get::<Peer>().and_then(|peer| peer.0) {
            Caller::Peer(index)
        } else {
            let readers = self.readers.as_ref().ok_or_else(|| Status::unauthenticated("show a pinned certificate"))?;
            let token = super::kms::bearer(request);
            readers.admit(token.ok_or_else(|| Status::unauthenticated("no certificate and no token"))?).await?
        };
        if cluster != self.owner.0.0 {
            return Err(Status::failed_precondition(format!("this node belongs to cluster {}", self.owner.0)));
        }
        Ok(caller)
    }
}

struct Following {
    published: watch::Receiver<Arc<Published>>,
    served: watch::Receiver<Arc<Epochs>>,
    identity: Arc<IdentitySecretKey>,
    sequence: Arc<AtomicU64>,
    reports: Arc<Reports>,
    challenge: Option<Challenge>,
    /// The report that was sent last.
    reported: Option<v1::Report>,
    /// Kept epochs that were sent.
    showing: Showing,
    position: u64,
    caught_up: bool,
    ready: VecDeque<v1::FollowItem>,
    _place: Place,
}

impl Following {
    /// Queues a report, if anything in it changed, kept epochs that were not sent, and every row after the position.
    fn refill(&mut self) {
        let now = self.published.borrow_and_update().clone();
        let served = self.served.borrow().clone();
        let report = self.reports.of(&now, &served, self.challenge.as_mut(), &self.identity.public());
        if let Some(report) = report.filter(|report| self.reported.as_ref() != Some(report)) {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            let signed = sign(report.clone(), sequence, &self.identity);
            self.queue(v1::follow_item::Item::Report(signed));
            self.reported = Some(report);
        }
        let kept = now.state.as_ref().map(|state| self.showing.next(state)).unwrap_or_default();
        for shown in &kept {
            self.queue(v1::follow_item::Item::KeptEpoch(kept_epoch::kept_epoch(shown)));
        }
        let Some(outbox) = &now.outbox else { return };
        for (position, row) in outbox.rows.range(self.position + 1..) {
            let Some(message) = now.find(&row.digest) else { continue };
            let said = Some(v1::outbox_row::Said::Message(messages::message(message)));
            let row = v1::OutboxRow { position: *position, number: row.number, said };
            self.queue(v1::follow_item::Item::Row(row));
            self.position = *position;
        }
        if !self.caught_up {
            self.caught_up = true;
            let caught_up = v1::CaughtUp { position: self.position };
            self.queue(v1::follow_item::Item::CaughtUp(caught_up));
        }
    }

    fn queue(&mut self, item: v1::follow_item::Item) {
        self.ready.push_back(v1::FollowItem { item: Some(item) });
    }

    async fn next(mut self) -> Option<(Result<v1::FollowItem, Status>, Self)> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some((Ok(item), self));
            }
            self.published.changed().await.ok()?;
            self.refill();
        }
    }
}

#[async_trait]
impl Round for RoundApi {
    type FollowStream = Items<v1::FollowItem>;
    type FetchStream = Items<v1::FetchItem>;

    async fn follow(&self, request: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let caller = self.admit(&request, &request.get_ref().cluster_id).await?;
        let v1::FollowRequest { after_position, lineage, challenge, .. } = request.into_inner();
        let challenge = match challenge.len() {
            0 => None,
            _ => Some(challenge.try_into().map_err(|_| Status::invalid_argument("challenge: 32 bytes, or none"))?),
        };
        let challenge = challenge.map(Challenge::new);
        let published = self.published.borrow().clone();
        let outbox = published.outbox.as_ref();
        let outbox = outbox.ok_or_else(|| Status::unavailable("starting: what was said is not yet proven durable"))?;
        if after_position > 0 && lineage != outbox.lineage {
            return Err(Status::failed_precondition("this outbox has another lineage: begin at 0"));
        }
        if after_position >= outbox.next {
            return Err(Status::out_of_range("the position is above what this node has said: begin at 0"));
        }
        let place = self.limits.follow.take(&caller)?;
        let mut following = Following {
            published: self.published.clone(),
            served: self.served.clone(),
            identity: self.identity.clone(),
            sequence: self.sequence.clone(),
            reports: self.reports.clone(),
            challenge,
            reported: None,
            showing: Showing::default(),
            position: after_position,
            caught_up: false,
            ready: VecDeque::new(),
            _place: place,
        };
        following.refill();
        Ok(Response::new(Box::pin(stream::unfold(following, Following::next))))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let caller = self.admit(&request, &request.get_ref().cluster_id).await?;
        let digests = request.into_inner().digests;
        if digests.is_empty() || digests.len() > FETCH_DIGESTS_MAX {
            return Err(Status::invalid_argument(format!("digests: 1 to {FETCH_DIGESTS_MAX}")));
        }
        let digests: BTreeSet<_> = digests
            .iter()
            .map(|bytes| messages::digest(bytes).ok_or_else(|| Status::invalid_argument("a digest has 32 bytes")))
            .collect::<Result<_, _>>()?;
        let place = self.limits.fetch.take(&caller)?;
        let published = self.published.borrow().clone();
        let state = published.state.as_ref();
        let answers = state.map(|state| feed::answer(&digests, state, &published.messages)).unwrap_or_default();
        let items = fetch::items(answers, self.owner.1, self.bundles.clone());
        // The call is under way until its stream ends.
        let items = items.inspect(move |_| {
            let _ = &place;
        });
        Ok(Response::new(Box::pin(items)))
    }

    async fn prove(&self, request: Request<v1::ProveRequest>) -> Result<Response<v1::SignedReport>, Status> {
        let caller = self.admit(&request, &request.get_ref().cluster_id).await?;
        let challenge = request.into_inner().challenge;
        let challenge = challenge.try_into().map_err(|_| Status::invalid_argument("challenge: 32 bytes"))?;
        let _place = self.limits.prove.take(&caller)?;
        let (published, served) = (self.published.borrow().clone(), self.served.borrow().clone());
        let mut challenge = Challenge::new(challenge);
        let report = self.reports.of(&published, &served, Some(&mut challenge), &self.identity.public());
        let report = report.ok_or_else(|| Status::unavailable("starting: what is held is not yet proven durable"))?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Response::new(sign(report, sequence, &self.identity)))
    }
}
