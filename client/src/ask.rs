//! One request: every node is asked at once, and the first threshold of good answers of one epoch make the answer. A slow
//! node is waited for only while it is needed.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::serving::derivation::EncryptedKey;
use keyfleet_threshold::serving::ibe::Identity;
use keyfleet_threshold::serving::signature;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::error::{AskError, NodeError, ShortfallError};
use crate::tally::{Call, Tally};
use crate::{Answer, Fleet, Shared, Trust};
use keyfleet_api::channel;
use keyfleet_api::epoch_certificate::{EpochCertificateError, ShownCertificate};
use keyfleet_api::tls::{self, Connector};
use keyfleet_api::v1::kms_client::KmsClient;
use keyfleet_api::{v1, wire};

/// Number of epochs whose vectors are remembered.
const VECTORS: usize = 8;
/// Time that the other nodes have to answer once too many have refused: the error names their reasons, too.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Nodes whose partials are wrong.
type Culprits = Vec<NodeIndex>;
/// A combined answer, with the nodes whose partials were left out of it.
type Outcome<C> = (C, Culprits);

/// One request to the `Kms` service, sent to every node, and the way its answers are combined.
pub(crate) trait KmsQuery: Send + Sync + 'static {
    type Partial: Copy + Send + 'static;
    type Combined;

    /// Sends the request to one node. Returns the epoch and the partial.
    fn send(
        &self,
        client: KmsClient<Channel>,
        context: CallContext,
    ) -> impl Future<Output = Result<(EpochNumber, Self::Partial), NodeError>> + Send;

    /// Combines partials of one epoch, or names the nodes whose partials are wrong.
    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, Self::Partial>,
    ) -> Result<Outcome<Self::Combined>, Culprits>;
}

/// The fields that all requests carry.
pub(crate) struct CallContext {
    cluster_id: Vec<u8>,
    request_id: Vec<u8>,
    epoch: u64,
    authorization: tonic::metadata::AsciiMetadataValue,
}

impl CallContext {
    fn request<T>(self, make: impl FnOnce(Vec<u8>, Vec<u8>, u64) -> T) -> Request<T> {
        let mut request = Request::new(make(self.cluster_id, self.request_id, self.epoch));
        request.metadata_mut().insert("authorization", self.authorization);
        request
    }
}

/// Asks for the key of an identity, encrypted to a transport key.
pub(crate) struct Derivation {
    pub(crate) identity: String,
    pub(crate) transport: G1,
}

impl KmsQuery for Derivation {
    type Partial = EncryptedKey;
    type Combined = EncryptedKey;

    async fn send(
        &self,
        mut client: KmsClient<Channel>,
        context: CallContext,
    ) -> Result<(EpochNumber, EncryptedKey), NodeError> {
        let request = context.request(|cluster_id, request_id, epoch| v1::DeriveRequest {
            cluster_id,
            request_id,
            identity: self.identity.clone(),
            transport_key: self.transport.encode().to_vec(),
            epoch,
        });
        let answer = client.derive(request).await.map_err(|status| error_of(&status))?.into_inner();
        let partial = EncryptedKey::decode(&answer.encrypted_partial).map_err(|_| NodeError::WrongPartial)?;
        Ok((EpochNumber(answer.epoch), partial))
    }

    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, EncryptedKey>,
    ) -> Result<Outcome<EncryptedKey>, Culprits> {
        EncryptedKey::combine(Identity(self.identity.as_bytes()), &self.transport, vector, partials)
            .map_err(|error| error.culprits)
    }
}

/// Asks for a signature over `point`, under `purpose`.
pub(crate) struct Signing {
    pub(crate) purpose: v1::sign_request::Purpose,
    pub(crate) point: G1,
}

impl KmsQuery for Signing {
    type Partial = G1;
    type Combined = G1;

    async fn send(&self, mut client: KmsClient<Channel>, context: CallContext) -> Result<(EpochNumber, G1), NodeError> {
        let purpose = Some(self.purpose.clone());
        let request =
            context.request(|cluster_id, request_id, epoch| v1::SignRequest { cluster_id, request_id, epoch, purpose });
        let answer = client.sign(request).await.map_err(|status| error_of(&status))?.into_inner();
        let partial = point(&answer.partial_signature).ok_or(NodeError::WrongPartial)?;
        Ok((EpochNumber(answer.epoch), partial))
    }

    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, G1>,
    ) -> Result<Outcome<G1>, Culprits> {
        signature::combine(&self.point, vector, partials)
            .map(|combined| (combined.signature, combined.culprits))
            .map_err(|error| error.culprits)
    }
}

fn point(bytes: &[u8]) -> Option<G1> {
    G1::decode(bytes.try_into().ok()?).ok()
}

/// Asks until threshold nodes have answered, too many are out of the query, or patience is over.
pub(crate) async fn ask<Q: KmsQuery>(shared: &Arc<Shared>, query: Q) -> Result<Answer<Q::Combined>, AskError> {
    let query = Arc::new(query);
    let request: [u8; 16] = rand::random();
    let begun = Instant::now();
    let mut deadline = begun + shared.patience.request;
    let mut tally = Tally::<Q::Partial>::new(shared.fleet.nodes.keys().copied());
    // Calls that are not needed any more end with this.
    let mut calls = JoinSet::new();
    let mut culprits = Vec::new();
    let mut hopeless = false;
    loop {
        for next in if hopeless { Vec::new() } else { tally.calls() } {
            let (shared, query) = (shared.clone(), query.clone());
            calls.spawn(async move {
                tokio::time::sleep(next.after).await;
                let asked = tokio::time::timeout(shared.patience.call, call(&shared, &*query, &request, next)).await;
                (next, asked.unwrap_or(Err(NodeError::Silent)))
            });
        }
        let ended = tokio::time::timeout_at(deadline, calls.join_next()).await;
        let Ok(Some(Ok((asked, answer)))) = ended else { break };
        match answer {
            Ok((epoch, partial)) => tally.answered(asked.node, epoch, partial),
            Err(error) => tally.failed(asked.node, asked.epoch, error),
        }
        if let Some((epoch, vector)) = enough(shared, &tally) {
            let partials = tally.partials()[0].1;
            match query.combine(&vector, partials) {
                Ok((value, wrong)) => {
                    culprits.extend(wrong);
                    culprits.sort_unstable();
                    return Ok(Answer { value, epoch, culprits });
                }
                Err(wrong) => {
                    tally.blame(&wrong);
                    culprits.extend(wrong);
                }
            }
        }
        if !hopeless && tally.hopeful() < needed(shared, &tally) {
            // No node is asked anew. The calls under way get a moment, for their reasons.
            hopeless = true;
            deadline = deadline.min(Instant::now() + LAST_WORDS);
        }
    }
    Err(shortfall(shared, &*query, tally, begun.elapsed()).into())
}

/// Returns the best epoch and its vector, when threshold nodes have answered from it.
fn enough<P: Copy>(shared: &Shared, tally: &Tally<P>) -> Option<(EpochNumber, Arc<VerificationVector>)> {
    let (epoch, came) = tally.partials().first().map(|(epoch, partials)| (*epoch, partials.len()))?;
    let vector = shared.vector(epoch)?;
    (came >= vector.threshold().count()).then_some((epoch, vector))
}

fn needed<P: Copy>(shared: &Shared, tally: &Tally<P>) -> usize {
    let vector = tally.partials().first().and_then(|(epoch, _)| shared.vector(*epoch));
    vector.map_or(shared.fleet.threshold, |vector| vector.threshold()).count()
}

fn shortfall<Q: KmsQuery>(
    shared: &Shared,
    query: &Q,
    mut tally: Tally<Q::Partial>,
    waited: Duration,
) -> ShortfallError {
    let needed = needed(shared, &tally);
    let best = tally.partials().first().map(|(epoch, partials)| (*epoch, (*partials).clone()));
    if let Some((epoch, partials)) = &best
        && let Some(vector) = shared.vector(*epoch)
        && let Err(wrong) = query.combine(&vector, partials)
    {
        tally.blame(&wrong);
    }
    let epoch = best.map(|(epoch, _)| epoch);
    let missing = tally.missing(epoch);
    ShortfallError { came: shared.fleet.nodes.len() - missing.len(), needed, waited, missing }
}

/// One call to one node. The vector of the epoch that it answers from is known afterwards.
async fn call<Q: KmsQuery>(
    shared: &Shared,
    query: &Q,
    request: &[u8; 16],
    next: Call,
) -> Result<(EpochNumber, Q::Partial), NodeError> {
    let audience = wire::audience(shared.fleet.cluster, next.node.value());
    let token = shared.tokens.token(next.node, &audience, next.renew).await;
    let authorization = token.and_then(|token| token.authorization()).map_err(NodeError::NoToken)?;
    let client = KmsClient::new(shared.channel(next.node).await?);
    let context = CallContext {
        cluster_id: shared.fleet.cluster.0.to_vec(),
        request_id: next.request_id(request),
        epoch: next.epoch.map_or(0, |epoch| epoch.0),
        authorization,
    };
    let answer = query.send(client.clone(), context).await;
    if matches!(answer, Err(NodeError::Unreachable(_))) {
        shared.channels().remove(&next.node);
    }
    let (epoch, partial) = answer?;
    if next.epoch.is_some_and(|wanted| wanted != epoch) {
        return Err(NodeError::WrongPartial);
    }
    if shared.vector(epoch).is_none() {
        shared.learn(client, epoch).await?;
    }
    Ok((epoch, partial))
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, BTreeMap<NodeIndex, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vector(&self, epoch: EpochNumber) -> Option<Arc<VerificationVector>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner).get(&epoch).cloned()
    }

    async fn channel(&self, node: NodeIndex) -> Result<Channel, NodeError> {
        let known = self.channels().get(&node).cloned();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let pin = self.fleet.nodes.get(&node).copied().ok_or(NodeError::Silent)?;
        let connector = match &self.trust {
            Trust::Pins => Connector::new(None, pin),
            Trust::Authorities { authorities, names } => {
                Connector::of_authorities(authorities, names.get(&node).map_or(&[], Vec::as_slice))
            }
        };
        let connector = connector.map_err(|error| unreachable(&error))?;
        let dial = self.dial.clone();
        let dial = move || {
            let dial = dial.clone();
            async move { dial.dial(node).await }
        };
        let channel = channel::connect_over(dial, connector).await.map_err(|error| unreachable(&error))?;
        self.channels().insert(node, channel.clone());
        Ok(channel)
    }

    /// Asks a node for the vector of an epoch, and takes it if the fleet's key certified it.
    async fn learn(&self, mut client: KmsClient<Channel>, epoch: EpochNumber) -> Result<(), NodeError> {
        let request = v1::PublicKeyRequest { cluster_id: self.fleet.cluster.0.to_vec() };
        let answer = client.public_key(request).await.map_err(|status| error_of(&status))?.into_inner();
        let proofs = [answer.active, answer.previous];
        let proof = proofs.into_iter().flatten().find(|proof| proof.number == epoch.0);
        // It may have gone on to the next epoch between the two calls.
        let proof =
            proof.ok_or_else(|| NodeError::NotNow(format!("it has no certificate of epoch {epoch} any more")))?;
        let vector = verified(&proof, &self.fleet).map_err(NodeError::WrongProof)?;
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        vectors.insert(epoch, Arc::new(vector));
        while vectors.len() > VECTORS {
            vectors.pop_first();
        }
        Ok(())
    }
}

/// Returns the vector of an epoch that the fleet's public key certified.
fn verified(proof: &v1::EpochProof, fleet: &Fleet) -> Result<VerificationVector, EpochCertificateError> {
    let shown = ShownCertificate {
        cluster: fleet.cluster,
        number: EpochNumber(proof.number),
        plan_digest: &proof.plan_digest,
        verification_vector: &proof.verification_vector,
        signature: &proof.certificate,
    };
    shown.verify_under(&fleet.public_key)
}

pub(crate) fn error_of(status: &Status) -> NodeError {
    // A source means that the transport failed: the node itself said nothing.
    if let Some(source) = status.source() {
        return unreachable(source);
    }
    let message = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => NodeError::Unauthenticated(message),
        Code::PermissionDenied => NodeError::Denied(message),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => NodeError::Refused(message),
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => NodeError::NotNow(message),
        code => NodeError::NotNow(format!("{code:?}: {message}")),
    }
}

pub(crate) fn unreachable(error: &(dyn std::error::Error + 'static)) -> NodeError {
    NodeError::Unreachable(innermost(error))
}

/// Returns the innermost source of an error, which says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    loop {
        if tls::is_wrong_pin(inner) {
            return "the server there is not the pinned node".to_owned();
        }
        match inner.source() {
            Some(source) => inner = source,
            None => return inner.to_string(),
        }
    }
}
