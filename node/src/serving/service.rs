//! One request, from token to answer.

use std::sync::{Arc, Mutex, PoisonError};

use keyfleet_crds::cluster::Access;
use keyfleet_crds::cluster::access::Request;
use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::{ClusterId, Digest, EpochNumber, NodeIndex};
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::serving::derivation::EncryptedKey;
use keyfleet_threshold::serving::ibe::Identity;
use keyfleet_threshold::serving::signature;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::audit::AuditWriter;
use super::token::{Caller, TokenError, Tokens};
use crate::round::{Epochs, ServedEpoch};
use crate::secret_rng::secret_rng;
use crate::store::journal::{Earlier, Record};
use crate::store::{Store, StoreError};

/// Request of a caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The key of an identity, encrypted to a transport key.
    Derive {
        /// The identity.
        identity: String,
        /// The caller's one-time public key.
        transport: G1,
    },
    /// A signature under a key name.
    Sign {
        /// The key's name.
        key_name: String,
        /// The message. Nodes hash.
        message: Vec<u8>,
    },
    /// A beacon round's signature.
    Beacon(u64),
}

impl Asked {
    fn request(&self) -> Request<'_> {
        match self {
            Self::Derive { identity, .. } => Request::Derive(identity),
            Self::Sign { key_name, .. } => Request::Sign(key_name),
            Self::Beacon(_) => Request::Beacon,
        }
    }

    /// Describes the request to the caller who sent it.
    fn describe(&self) -> String {
        match self {
            Self::Derive { identity, .. } => format!("derive `{identity}`"),
            Self::Sign { key_name, .. } => format!("sign under `{key_name}`"),
            Self::Beacon(_) => "sign beacon rounds".to_owned(),
        }
    }

    /// Returns the digest by which the audit log and the request ledger know a request.
    fn digest(&self, epoch: Option<EpochNumber>) -> Digest {
        let epoch = epoch.map_or(0, |epoch| epoch.0).to_be_bytes();
        match self {
            Self::Derive { identity, transport } => Digest::of(
                "KEYFLEET-V1-REQUEST",
                &[&epoch, b"derive", &length(identity.as_bytes()), identity.as_bytes(), &transport.encode()],
            ),
            Self::Sign { key_name, message } => Digest::of(
                "KEYFLEET-V1-REQUEST",
                &[&epoch, b"sign", &length(key_name.as_bytes()), key_name.as_bytes(), message],
            ),
            Self::Beacon(round) => Digest::of("KEYFLEET-V1-REQUEST", &[&epoch, b"beacon", &round.to_be_bytes()]),
        }
    }
}

/// A partial answer, and the epoch of the share that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The epoch.
    pub epoch: EpochNumber,
    /// An encrypted partial key of 192 bytes, or a partial signature of 48.
    pub partial: Vec<u8>,
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The caller is at fault.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The caller asks for what no rule allows.
    #[error("`{subject}` of issuer `{issuer}` may not {request}: add a rule to spec.access.rules of the KmsCluster")]
    NotAllowed {
        /// Subject of the token.
        subject: String,
        /// Issuer of the token, by the name that rules use.
        issuer: String,
        /// The request, like ``derive `reports/2027` ``.
        request: String,
    },
    /// The node has no share to answer with.
    #[error("this node holds no active epoch; ask another node")]
    NoEpoch,
    /// The caller asks for an epoch that is not served.
    #[error("epoch {0} is retired or unknown here; send the request again without an epoch")]
    OtherEpoch(EpochNumber),
    /// The caller used a request id twice.
    #[error("this request id was used for another request; use a new id for each request")]
    IdReused,
    /// The request cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Serves callers.
pub struct Service {
    owner: (ClusterId, NodeIndex),
    access: watch::Receiver<Arc<Access>>,
    served: watch::Receiver<Arc<Epochs>>,
    tokens: Arc<Tokens>,
    store: Store,
    audit: AuditWriter,
    /// The ledger's task, until somebody waits for its end.
    writes: Mutex<Option<JoinHandle<()>>>,
}

impl Service {
    /// A service over what a node serves.
    #[must_use]
    pub fn new(
        owner: (ClusterId, NodeIndex),
        access: watch::Receiver<Arc<Access>>,
        served: watch::Receiver<Arc<Epochs>>,
        tokens: Arc<Tokens>,
        store: Store,
    ) -> Self {
        let (audit, task) = AuditWriter::start(store.clone());
        Self { owner, access, served, tokens, store, audit, writes: Mutex::new(Some(task)) }
    }

    /// The task that writes requests down, once: it ends after the last of its service, and holds the state file until then.
    pub fn take_writer(&self) -> Option<JoinHandle<()>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns cluster and index of the node.
    #[must_use]
    pub fn owner(&self) -> (ClusterId, NodeIndex) {
        self.owner
    }

    /// The epochs that are served now.
    #[must_use]
    pub fn epochs(&self) -> Arc<Epochs> {
        self.served.borrow().clone()
    }

    /// Answers one request. `id` is the caller's own name for it.
    ///
    /// # Errors
    /// Why it is not answered. What a known caller was refused is in the audit log as well.
    pub async fn answer(
        &self,
        token: Option<&str>,
        id: Option<&[u8; 16]>,
        asked: &Asked,
        epoch: Option<EpochNumber>,
        now_seconds: u64,
    ) -> Result<Answer, RequestError> {
        let access = self.access.borrow().clone();
        let token = token.ok_or(TokenError::Missing)?;
        let caller =
            self.tokens.check(token, &access.issuer_names(), access.max_token_seconds.into(), now_seconds).await?;
        let who = caller_digest(&caller);
        let request = asked.digest(epoch);
        let id = id.map(|id| Digest::of("KEYFLEET-V1-REQUEST-ID", &[&who.0, id]));
        let record =
            |answer: Vec<u8>, allowed| Record { time_seconds: now_seconds, caller: who, request, id, answer, allowed };
        if !access.allows(&caller.issuer, &caller.subject, asked.request()) {
            self.audit.write(record(Vec::new(), false)).await?;
            let (subject, issuer) = (caller.subject, caller.issuer);
            return Err(RequestError::NotAllowed { subject, issuer, request: asked.describe() });
        }
        if let Some(id) = &id {
            match self.store.known_request(id, &request)? {
                Earlier::Answered(answer) => {
                    return read_answer(&answer).ok_or(StoreError::Malformed("requests").into());
                }
                Earlier::OtherRequest => return Err(RequestError::IdReused),
                Earlier::No => {}
            }
        }
        let answer = self.work(asked, epoch)?;
        let written = [answer.epoch.0.to_be_bytes().as_slice(), &answer.partial].concat();
        self.audit.write(record(written, true)).await?;
        Ok(answer)
    }

    fn work(&self, asked: &Asked, epoch: Option<EpochNumber>) -> Result<Answer, RequestError> {
        let epochs = self.served.borrow().clone();
        let (epoch, served) = match epoch {
            None => epochs.newest().ok_or(RequestError::NoEpoch)?,
            Some(epoch) => (epoch, epochs.get(epoch).ok_or(RequestError::OtherEpoch(epoch))?),
        };
        let partial = match asked {
            Asked::Derive { identity, transport } => {
                EncryptedKey::derive(Identity(identity.as_bytes()), transport, &served.share, &mut secret_rng())
                    .encode()
            }
            Asked::Sign { key_name, message } => partial_signature(&Purpose::signature(key_name, message), served),
            Asked::Beacon(round) => partial_signature(&Purpose::beacon(*round), served),
        };
        Ok(Answer { epoch, partial })
    }
}

fn partial_signature(purpose: &Purpose, served: &ServedEpoch) -> Vec<u8> {
    signature::sign(purpose, &served.share).encode().to_vec()
}

/// Returns a length as it goes into digests, in front of bytes of any length.
fn length(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_be_bytes()
}

fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let (epoch, partial) = bytes.split_first_chunk()?;
    Some(Answer { epoch: EpochNumber(u64::from_be_bytes(*epoch)), partial: partial.to_vec() })
}

fn caller_digest(caller: &Caller) -> Digest {
    Digest::of(
        "KEYFLEET-V1-CALLER",
        &[&length(caller.issuer.as_bytes()), caller.issuer.as_bytes(), caller.subject.as_bytes()],
    )
}
