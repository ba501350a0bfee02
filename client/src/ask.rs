//! One request: every node is asked at once, and the first threshold of good answers of one epoch make the answer. A slow
//! node is waited for only while it is needed.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use keyfleet_threshold::curve::{G1, G2};
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::purpose::Certificate;
use keyfleet_threshold::serving::derivation::EncryptedKey;
use keyfleet_threshold::serving::ibe::Identity;
use keyfleet_threshold::serving::signature;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::error::{AskError, NodeError, Shortfall};
use crate::tally::{Call, Tally};
use crate::{Answer, Shared, Trust};
use keyfleet_api::channel;
use keyfleet_api::messages;
use keyfleet_api::tls::Connector;
use keyfleet_api::v1::kms_client::KmsClient;
use keyfleet_api::{v1, wire};

/// Vectors of so many epochs are remembered.
const VECTORS: usize = 8;
/// When too many nodes have refused, the others have so long to say what they think.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Nodes whose partials are wrong.
type Culprits = Vec<NodeIndex>;
/// What threshold good partials make.
type Combined<W> = (W, Culprits);

/// What one request asks of every node, and what becomes of the answers.
pub(crate) trait Question: Send + Sync + 'static {
    type Partial: Copy + Send + 'static;
    type Whole;

    /// Asks one node; answers epoch and partial.
    fn put(
        &self,
        client: KmsClient<Channel>,
        asked: Asked,
    ) -> impl Future<Output = Result<(EpochNumber, Self::Partial), NodeError>> + Send;

    /// Combines.
    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, Self::Partial>,
    ) -> Result<Combined<Self::Whole>, Culprits>;
}

/// The part that all questions have.
pub(crate) struct Asked {
    cluster_id: Vec<u8>,
    request_id: Vec<u8>,
    epoch: u64,
    authorization: tonic::metadata::AsciiMetadataValue,
}

impl Asked {
    fn request<T>(self, make: impl FnOnce(Vec<u8>, Vec<u8>, u64) -> T) -> Request<T> {
        let mut request = Request::new(make(self.cluster_id, self.request_id, self.epoch));
        request.metadata_mut().insert("authorization", self.authorization);
        request
    }
}

/// A key of an identity, encrypted to a transport key.
pub(crate) struct Derivation {
    pub(crate) identity: String,
    pub(crate) transport: G1,
}

impl Question for Derivation {
    type Partial = EncryptedKey;
    type Whole = EncryptedKey;

    async fn put(
        &self,
        mut client: KmsClient<Channel>,
        asked: Asked,
    ) -> Result<(EpochNumber, EncryptedKey), NodeError> {
        let request = asked.request(|cluster_id, request_id, epoch| v1::DeriveRequest {
            cluster_id,
            request_id,
            identity: self.identity.clone(),
            transport_key: self.transport.encode().to_vec(),
            epoch,
        });
        let answer = client.derive(request).await.map_err(|status| fault_of(&status))?.into_inner();
        let partial = EncryptedKey::decode(&answer.encrypted_partial).map_err(|_| NodeError::WrongPartial)?;
        Ok((EpochNumber(answer.epoch), partial))
    }

    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, EncryptedKey>,
    ) -> Result<Combined<EncryptedKey>, Culprits> {
        EncryptedKey::combine(Identity(self.identity.as_bytes()), &self.transport, vector, partials)
            .map_err(|fault| fault.culprits)
    }
}

/// A signature over `point`, asked for as `purpose`.
pub(crate) struct Signing {
    pub(crate) purpose: v1::sign_request::Purpose,
    pub(crate) point: G1,
}

impl Question for Signing {
    type Partial = G1;
    type Whole = G1;

    async fn put(&self, mut client: KmsClient<Channel>, asked: Asked) -> Result<(EpochNumber, G1), NodeError> {
        let purpose = Some(self.purpose.clone());
        let request =
            asked.request(|cluster_id, request_id, epoch| v1::SignRequest { cluster_id, request_id, epoch, purpose });
        let answer = client.sign(request).await.map_err(|status| fault_of(&status))?.into_inner();
        let partial = point(&answer.partial_signature).ok_or(NodeError::WrongPartial)?;
        Ok((EpochNumber(answer.epoch), partial))
    }

    fn combine(
        &self,
        vector: &VerificationVector,
        partials: &BTreeMap<NodeIndex, G1>,
    ) -> Result<Combined<G1>, Culprits> {
        signature::combine(&self.point, vector, partials)
            .map(|combined| (combined.signature, combined.culprits))
            .map_err(|fault| fault.culprits)
    }
}

fn point(bytes: &[u8]) -> Option<G1> {
    G1::decode(bytes.try_into().ok()?).ok()
}

/// Asks until threshold nodes have answered, too many are out of the question, or patience is over.
pub(crate) async fn ask<Q: Question>(shared: &Arc<Shared>, question: Q) -> Result<Answer<Q::Whole>, AskError> {
    let question = Arc::new(question);
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
            let (shared, question) = (shared.clone(), question.clone());
            calls.spawn(async move {
                tokio::time::sleep(next.after).await;
                let asked = tokio::time::timeout(shared.patience.call, call(&shared, &*question, &request, next)).await;
                (next, asked.unwrap_or(Err(NodeError::Silent)))
            });
        }
        let heard = tokio::time::timeout_at(deadline, calls.join_next()).await;
        let Ok(Some(Ok((asked, answer)))) = heard else { break };
        match answer {
            Ok((epoch, partial)) => tally.answered(asked.node, epoch, partial),
            Err(fault) => tally.failed(asked.node, asked.epoch, fault),
        }
        if let Some((epoch, vector)) = enough(shared, &tally) {
            let partials = tally.partials()[0].1;
            match question.combine(&vector, partials) {
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
            // Nobody is asked anew; what those say who are being asked is worth a moment.
            hopeless = true;
            deadline = deadline.min(Instant::now() + LAST_WORDS);
        }
    }
    Err(shortfall(shared, &*question, tally, begun.elapsed()).into())
}

/// The best epoch and its vector, when threshold nodes have answered from it.
fn enough<P: Copy>(shared: &Shared, tally: &Tally<P>) -> Option<(EpochNumber, Arc<VerificationVector>)> {
    let (epoch, came) = tally.partials().first().map(|(epoch, partials)| (*epoch, partials.len()))?;
    let vector = shared.vector(epoch)?;
    (came >= vector.threshold().count()).then_some((epoch, vector))
}

fn needed<P: Copy>(shared: &Shared, tally: &Tally<P>) -> usize {
    let vector = tally.partials().first().and_then(|(epoch, _)| shared.vector(*epoch));
    vector.map_or(shared.fleet.threshold, |vector| vector.threshold()).count()
}

fn shortfall<Q: Question>(shared: &Shared, question: &Q, mut tally: Tally<Q::Partial>, waited: Duration) -> Shortfall {
    let needed = needed(shared, &tally);
    let best = tally.partials().first().map(|(epoch, partials)| (*epoch, (*partials).clone()));
    if let Some((epoch, partials)) = &best
        && let Some(vector) = shared.vector(*epoch)
        && let Err(wrong) = question.combine(&vector, partials)
    {
        tally.blame(&wrong);
    }
    let epoch = best.map(|(epoch, _)| epoch);
    let missing = tally.missing(epoch);
    Shortfall { came: shared.fleet.nodes.len() - missing.len(), needed, waited, missing }
}

/// One call to one node. The vector of the epoch that it answers from is known afterwards.
async fn call<Q: Question>(
    shared: &Shared,
    question: &Q,
    request: &[u8; 16],
    next: Call,
) -> Result<(EpochNumber, Q::Partial), NodeError> {
    let audience = wire::audience(shared.fleet.cluster, next.node.value());
    let token = shared.tokens.token(next.node, &audience, next.renew).await;
    let authorization = token.and_then(|token| token.authorization()).map_err(NodeError::NoToken)?;
    let client = KmsClient::new(shared.channel(next.node).await?);
    let asked = Asked {
        cluster_id: shared.fleet.cluster.0.to_vec(),
        request_id: next.request_id(request),
        epoch: next.epoch.map_or(0, |epoch| epoch.0),
        authorization,
    };
    let answer = question.put(client.clone(), asked).await;
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
        let unreachable = |error: &dyn std::error::Error| NodeError::Unreachable(innermost(error));
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
        let answer = client.public_key(request).await.map_err(|status| fault_of(&status))?.into_inner();
        let proofs = [answer.active, answer.previous];
        let proof = proofs.into_iter().flatten().find(|proof| proof.number == epoch.0);
        // It may have gone on to the next epoch between the two calls.
        let proof = proof.ok_or_else(|| NodeError::NotNow(format!("it does not show epoch {epoch}")))?;
        let vector = verified(&proof, self).map_err(NodeError::WrongProof)?;
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        vectors.insert(epoch, Arc::new(vector));
        while vectors.len() > VECTORS {
            vectors.pop_first();
        }
        Ok(())
    }
}

/// The vector of a proof that the fleet's public key certified.
fn verified(proof: &v1::EpochProof, shared: &Shared) -> Result<VerificationVector, &'static str> {
    let points = proof.verification_vector.iter().map(|bytes| G2::decode(bytes.as_slice().try_into().ok()?).ok());
    let points = points.collect::<Option<Vec<_>>>().ok_or("a point of its vector is none")?;
    let vector = VerificationVector::new(points).map_err(|_| "its vector is none")?;
    if vector.constant() != shared.fleet.public_key {
        return Err("its vector is that of another public key");
    }
    let certificate = Certificate {
        cluster: shared.fleet.cluster,
        number: EpochNumber(proof.number),
        plan: messages::digest(&proof.plan_digest).ok_or("its plan digest is none")?,
        vector: vector.digest(),
        signature: point(&proof.certificate).ok_or("its certificate is none")?,
    };
    if certificate.verify(&shared.fleet.public_key) { Ok(vector) } else { Err("its certificate is not the fleet's") }
}

pub(crate) fn fault_of(status: &Status) -> NodeError {
    // A source means that the transport failed: the node itself said nothing.
    if let Some(source) = status.source() {
        return NodeError::Unreachable(innermost(source));
    }
    let said = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => NodeError::Unauthenticated(said),
        Code::PermissionDenied => NodeError::Denied(said),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => NodeError::Refused(said),
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => NodeError::NotNow(said),
        code => NodeError::NotNow(format!("{code:?}: {said}")),
    }
}

/// What an error is about, without the layers that only say that there was one.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let said = inner.to_string();
    if said.contains("ApplicationVerificationFailure") {
        return "whoever answers there is not the pinned node".to_owned();
    }
    said
}
