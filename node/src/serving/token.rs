//! Identity of a caller: an OpenID Connect token, made for this node alone.
//!
//! A token counts when a key of its issuer signed it, its lifetime is bounded and not over, this node's audience is among
//! its audiences and no other Keyfleet node's is: what one bad node sees opens no other. Keys are cached in the state
//! file, so that a node that restarts while the issuer is away serves on, and fetched again when a token names an unknown
//! one, which is how rotation is followed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use keyfleet_api::wire;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};
use serde::{Deserialize, Serialize};

use crate::seal::KeyMaterial;
use crate::store::{Store, StoreError};

/// Tolerated difference of clocks, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Pause between two fetches of one issuer's keys, in seconds, however many unknown ones are named.
const REFETCH_SECONDS: u64 = 10;

/// Documents that an issuer publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedKeys {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    pub keys: JwkSet,
}

/// Source of issuers' keys: the API server's `/openid/v1/jwks`, or an issuer's discovery document.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// Fetches the keys of an issuer, by the name that rules use.
    ///
    /// # Errors
    /// [`IssuerError`] says whether the configuration or the issuer is at fault.
    async fn fetch(&self, name: &str) -> Result<FetchedKeys, IssuerError>;
}

/// Why the keys of an issuer were not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The configuration is at fault: a rule names an issuer that it does not have.
    #[error("no issuer `{0}` is configured; add it to spec.access.issuers")]
    NotConfigured(String),
    /// The configuration is at fault: the authorities of the issuer cannot be used.
    #[error("{path}: {problem}; correct the ConfigMap that the issuer's caConfigMap names", path = path.display())]
    Authorities { path: PathBuf, problem: String },
    /// The issuer is at fault, or the way to it.
    #[error("{url}: {problem}")]
    Unreachable { url: String, problem: String },
    /// The issuer is at fault: it serves another document.
    #[error("{url} does not serve the expected document: {problem}")]
    Document { url: String, problem: String },
    /// The issuer is at fault: it speaks for another one.
    #[error("{url} is of issuer {found:?}, not of {expected:?}; correct the issuer's url in spec.access.issuers")]
    OtherIssuer { url: String, found: String, expected: String },
}

/// A caller whose token was good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The issuer, by the name that rules use.
    pub issuer: String,
    /// The token's `sub`.
    pub subject: String,
}

/// Why a token does not count. Says nothing that helps to make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// None was sent.
    #[error("no token: send `authorization: Bearer <token>`")]
    Missing,
    /// The token is malformed, or its signature is wrong.
    #[error("the token is malformed, or its signature is wrong")]
    Malformed,
    /// No known issuer has the key that signed it.
    #[error("no known issuer has the key that signed the token")]
    UnknownKey,
    /// The token was made for somebody else, or for more than one node.
    #[error("the token must have exactly one Keyfleet audience: {0}")]
    Audience(String),
    /// The token is expired, or not yet valid.
    #[error("the token is expired or not yet valid")]
    Expired,
    /// The token lives too long.
    #[error("the token lives longer than {0} seconds")]
    TooLong(u64),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audiences,
    exp: u64,
    iat: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

/// Checks tokens.
pub struct Tokens {
    /// The node that tokens must be for.
    owner: (ClusterId, NodeIndex),
    source: Arc<dyn KeySource>,
    store: Store,
    node_key: KeyMaterial,
    issuers: RwLock<BTreeMap<String, Earlier>>,
}

struct Earlier {
    fetched: FetchedKeys,
    asked_seconds: u64,
}

impl Tokens {
    /// Takes up the keys that were last seen of `issuers`.
    ///
    /// # Errors
    /// When a row of the state file does not open.
    pub fn new(
        owner: (ClusterId, NodeIndex),
        issuers: &[String],
        source: Arc<dyn KeySource>,
        store: Store,
        node_key: KeyMaterial,
    ) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        for name in issuers {
            let row = store.access(&format!("keys/{name}"), &node_key)?;
            if let Some(fetched) = row.and_then(|row| serde_json::from_slice(&row).ok()) {
                known.insert(name.clone(), Earlier { fetched, asked_seconds: 0 });
            }
        }
        Ok(Self { owner, source, store, node_key, issuers: RwLock::new(known) })
    }

    /// Checks a token; asks issuers for their keys when it names one that is not known.
    ///
    /// # Errors
    /// Why it does not count.
    pub async fn check(
        &self,
        token: &str,
        issuers: &[String],
        max_token_seconds: u64,
        now_seconds: u64,
    ) -> Result<Caller, TokenError> {
        match self.check_known(token, issuers, max_token_seconds, now_seconds) {
            Err(TokenError::UnknownKey) => {
                self.refetch(issuers, now_seconds).await;
                self.check_known(token, issuers, max_token_seconds, now_seconds)
            }
            checked => checked,
        }
    }

    fn check_known(&self, token: &str, issuers: &[String], max: u64, now: u64) -> Result<Caller, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        let kid = header.kid.as_deref().ok_or(TokenError::Malformed)?;
        let known = self.issuers.read().unwrap_or_else(PoisonError::into_inner);
        let mut error = TokenError::UnknownKey;
        for name in issuers {
            let Some((issuer, jwk)) =
                known.get(name).and_then(|known| Some((&known.fetched.issuer, known.fetched.keys.find(kid)?)))
            else {
                continue;
            };
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            let mut validation = Validation::new(header.alg);
            validation.algorithms = vec![header.alg];
            validation.set_issuer(&[issuer]);
            validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
            // Audience and time are checked below: jsonwebtoken allows further audiences, and reads the clock itself.
            validation.validate_aud = false;
            validation.validate_exp = false;
            if !SIGNED.contains(&header.alg) {
                return Err(TokenError::Malformed);
            }
            match decode::<Claims>(token, &key, &validation) {
                Ok(data) => {
                    self.check_claims(&data.claims, max, now)?;
                    return Ok(Caller { issuer: name.clone(), subject: data.claims.sub });
                }
                Err(_) => error = TokenError::Malformed,
            }
        }
        Err(error)
    }

    fn check_claims(&self, claims: &Claims, max: u64, now: u64) -> Result<(), TokenError> {
        let audiences = match &claims.aud {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Many(many) => many.as_slice(),
        };
        let (cluster, node) = self.owner;
        if !wire::is_audience_of(audiences.iter().map(String::as_str), cluster, node.value()) {
            return Err(TokenError::Audience(wire::audience(cluster, node.value())));
        }
        let begins = claims.nbf.or(claims.iat).unwrap_or(now);
        if claims.exp.saturating_add(LEEWAY_SECONDS) <= now || begins > now + LEEWAY_SECONDS {
            return Err(TokenError::Expired);
        }
        let issued = claims.iat.or(claims.nbf).unwrap_or(now);
        if claims.exp.saturating_sub(issued) > max { Err(TokenError::TooLong(max)) } else { Ok(()) }
    }

    async fn refetch(&self, issuers: &[String], now_seconds: u64) {
        for name in issuers {
            let recent = {
                let known = self.issuers.read().unwrap_or_else(PoisonError::into_inner);
                known.get(name).is_some_and(|known| now_seconds < known.asked_seconds + REFETCH_SECONDS)
            };
            if recent {
                continue;
            }
            match self.source.fetch(name).await {
                Err(error) => tracing::warn!(issuer = name, %error, "an issuer's keys could not be fetched"),
                Ok(fetched) => {
                    let row = serde_json::to_vec(&fetched).expect("keys that were read can be written");
                    if let Err(error) = self.store.remember_access(&format!("keys/{name}"), &row, &self.node_key).await
                    {
                        tracing::warn!(%error, "an issuer's keys are not remembered over a restart");
                    }
                    let known = Earlier { fetched, asked_seconds: now_seconds };
                    self.issuers.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), known);
                }
            }
        }
    }
}

/// Signatures only: never a shared secret, never `none`.
const SIGNED: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
