//! The client of a fleet: asks the nodes, checks what they answer, combines it.
//!
//! Trusts no answer unchecked: nodes are known by their pins or by a platform's authorities, epochs by certificates under the
//! public key that the caller has, partials by the epoch's verification vector. The combined result is verified again.
//!
//! - [`Fleet`]: public facts of a fleet that a client needs
//! - [`Dial`], [`Trust`], [`Tokens`]: routes to the nodes, proof of their identity, proof of the caller's
//! - [`mounted`]: all of this from one volume of a caller's pod
//! - [`Client`]: derives and signs through any threshold of the nodes
//! - [`sealed`]: data of any size encrypted to an identity; encrypting needs no node
//! - [`Observer`]: messages that nodes send in rounds, for audits
//! - `tally`: choice of the nodes to ask for an epoch, a pure state machine
//!
//! Encrypting is offline, with nothing but the fleet's record:
//!
//! ```
//! use keyfleet_client::{Fleet, FleetRecord, sealed};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = tempfile::NamedTempFile::new()?;
//! # let public_key = keyfleet_threshold::curve::G2::generator().encode().map(|byte| format!("{byte:02x}")).concat();
//! # std::fs::write(file.path(), format!(
//! #     r#"{{"format": 1, "cluster": "keys", "clusterId": "{}", "publicKey": "{public_key}", "threshold": 1,
//! #         "nodes": [{{"index": 1, "identityKey": "{}"}}]}}"#, "07".repeat(16), "0a".repeat(32),
//! # ))?;
//! # let client_json = file.path();
//! let record = FleetRecord::parse(&std::fs::read_to_string(client_json)?)?;
//! let fleet = Fleet::try_from(&record)?;
//! let mut encrypted = Vec::new();
//! sealed::seal(&fleet.public_key, "backups/2026", &mut b"a secret".as_slice(), &mut encrypted, &mut |_| ())?;
//! assert!(encrypted.starts_with(b"KEYFLEET-V1-FILE"));
//! # Ok(())
//! # }
//! ```
//!
//! Opening it takes threshold of the nodes. In a pod that mounts the volume which `keyfleet pod-volume` prints:
//!
//! ```no_run
//! use keyfleet_client::{Patience, mounted, sealed::Sealed};
//!
//! # async fn open() -> Result<(), Box<dyn std::error::Error>> {
//! let client = mounted::Mounted::read(mounted::MOUNT_PATH.as_ref())?.client(Patience::default())?;
//! let sealed = Sealed::read(std::fs::File::open("backup.sealed")?)?;
//! let key = client.derive(sealed.identity()).await?.value;
//! sealed.open(&key, &mut std::io::stdout(), &mut |_| ())?;
//! # Ok(())
//! # }
//! ```

mod ask;
mod dial;
mod error;
mod fleet;
pub mod mounted;
mod observer;
pub mod sealed;
mod tally;
mod tokens;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfleet_threshold::curve::G1;
use keyfleet_threshold::identifiers::{EpochNumber, NodeIndex};
use keyfleet_threshold::polynomial::VerificationVector;
use keyfleet_threshold::purpose::Purpose;
use keyfleet_threshold::serving::derivation::TransportKey;
use keyfleet_threshold::serving::ibe::{DerivedKey, Identity};
use tonic::transport::Channel;

use ask::{Derivation, Signing};
use keyfleet_api::limits::{IDENTITY_BYTES_MAX, KEY_NAME_BYTES_MAX, SIGNED_MESSAGE_BYTES_MAX};

pub use keyfleet_api::tls::Authorities;
pub use keyfleet_api::wire::FleetRecord;

pub use dial::{Dial, Direct, Duplex};
pub use error::{AskError, NodeError, ShortfallError};
pub use fleet::{Fleet, FleetError};
pub use observer::Observer;
pub use tokens::{Token, TokenError, TokenFiles, Tokens};

/// Limits of a client's waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Timeout of one request. Default 10 s.
    pub request: Duration,
    /// Timeout of one call of one node, connecting included; then that node is asked again. Default 5 s.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { request: Duration::from_secs(10), call: Duration::from_secs(5) }
    }
}

/// Proof that a server is the node. Its answers are verified in any case.
#[derive(Clone, Default, Debug)]
#[non_exhaustive]
pub enum Trust {
    /// By the node's pinned identity: nothing else to set up, nothing that expires.
    #[default]
    Pins,
    /// By a certificate of these authorities, where `spec.tls` names the platform's own.
    Authorities {
        /// The authorities.
        authorities: Authorities,
        /// For which names each node's certificate may be: host names or addresses, the first is asked for.
        names: BTreeMap<NodeIndex, Vec<String>>,
    },
}

/// A client of one fleet. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    fleet: Fleet,
    dial: Arc<dyn Dial>,
    tokens: Arc<dyn Tokens>,
    patience: Patience,
    trust: Trust,
    channels: Mutex<BTreeMap<NodeIndex, Channel>>,
    /// Vectors whose certificate verified under the fleet's public key.
    vectors: Mutex<BTreeMap<EpochNumber, Arc<VerificationVector>>>,
}

/// Combined result of the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T> {
    /// The result, verified under the fleet's public key.
    pub value: T,
    /// The epoch whose shares made it.
    pub epoch: EpochNumber,
    /// Nodes whose answers did not match their public shares. They were left out.
    pub culprits: Vec<NodeIndex>,
}

impl Client {
    /// Makes a client of `fleet`. It connects to nodes at the first request.
    #[must_use]
    pub fn new(fleet: Fleet, dial: Arc<dyn Dial>, tokens: Arc<dyn Tokens>, patience: Patience) -> Self {
        Self::with_trust(fleet, dial, tokens, patience, Trust::Pins)
    }

    /// Makes a client that knows nodes by `trust`.
    #[must_use]
    pub fn with_trust(
        fleet: Fleet,
        dial: Arc<dyn Dial>,
        tokens: Arc<dyn Tokens>,
        patience: Patience,
        trust: Trust,
    ) -> Self {
        let (channels, vectors) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { fleet, dial, tokens, patience, trust, channels, vectors }))
    }

    /// Returns the public facts of the fleet.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// Derives the key of an identity: it opens everything that was encrypted to it.
    ///
    /// # Errors
    /// When too few nodes answered in time. The error has the reason of each.
    pub async fn derive(&self, identity: &str) -> Result<Answer<DerivedKey>, AskError> {
        limited("the identity", identity.len(), 1, IDENTITY_BYTES_MAX)?;
        let transport = TransportKey::random(&mut rand::rng());
        let query = Derivation { identity: identity.to_owned(), transport: transport.public() };
        let combined = ask::ask(&self.0, query).await?;
        let of = Identity(identity.as_bytes());
        let value = combined.value.open(of, &transport, &self.0.fleet.public_key).map_err(|_| AskError::NotTheKey)?;
        Ok(Answer { value, epoch: combined.epoch, culprits: combined.culprits })
    }

    /// Signs `message` under `key_name`.
    ///
    /// # Errors
    /// As [`Client::derive`].
    pub async fn sign(&self, key_name: &str, message: &[u8]) -> Result<Answer<G1>, AskError> {
        check_signable(key_name, message)?;
        let named = keyfleet_api::v1::NamedMessage { key_name: key_name.to_owned(), message: message.to_vec() };
        let purpose = keyfleet_api::v1::sign_request::Purpose::Message(named);
        ask::ask(&self.0, Signing { purpose, point: Purpose::signature(key_name, message).point() }).await
    }

    /// Signs a beacon round, where the fleet's access rules enable beacons.
    ///
    /// # Errors
    /// As [`Client::derive`].
    pub async fn beacon(&self, round: u64) -> Result<Answer<G1>, AskError> {
        let purpose = keyfleet_api::v1::sign_request::Purpose::BeaconRound(round);
        ask::ask(&self.0, Signing { purpose, point: Purpose::beacon(round).point() }).await
    }
}

fn check_signable(key_name: &str, message: &[u8]) -> Result<(), AskError> {
    limited("the key's name", key_name.len(), 1, KEY_NAME_BYTES_MAX)?;
    limited("the message", message.len(), 0, SIGNED_MESSAGE_BYTES_MAX)
}

fn limited(what: &'static str, length: usize, least: usize, most: usize) -> Result<(), AskError> {
    if (least..=most).contains(&length) { Ok(()) } else { Err(AskError::Length { what, length, least, most }) }
}
