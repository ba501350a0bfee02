//! Tokens by which nodes know the operator: of its own ServiceAccount, each for one node's audience.

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

/// Requested lifetime of a token, in seconds. Nodes take an hour at most.
const LIFETIME_SECONDS: i64 = 1800;

/// A token for one node.
#[derive(Clone)]
pub struct Token {
    /// The token itself.
    pub secret: String,
    /// From then on another one is asked for.
    pub renew_at: Instant,
}

/// Where tokens come from.
#[async_trait::async_trait]
pub trait Tokens: Send + Sync {
    /// A token for a node's audience.
    ///
    /// # Errors
    /// Reason why there is no token now.
    async fn token(&self, audience: &str) -> Result<Token, TokenError>;
}

/// Why there is no token. The next call asks for one again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The API server refused, or did not answer.
    #[error("a token of the operator's own account: {0}")]
    Refused(#[from] kube::Error),
    /// The API server answered without one.
    #[error("the API server answered without a token")]
    Missing,
    /// The token cannot be sent.
    #[error("the token is no header value")]
    NoHeader,
}

/// Asks the API server for tokens of the operator's own ServiceAccount; its rights name no other.
pub struct OwnAccount {
    accounts: Api<ServiceAccount>,
    name: String,
}

impl OwnAccount {
    /// The account `name` in the operator's namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { accounts: Api::namespaced(client, namespace), name: name.to_owned() }
    }
}

#[async_trait::async_trait]
impl Tokens for OwnAccount {
    async fn token(&self, audience: &str) -> Result<Token, TokenError> {
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(LIFETIME_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let asked = Instant::now();
        let answer = self.accounts.create_token_request(&self.name, &PostParams::default(), &request).await;
        let status = answer?.status.ok_or(TokenError::Missing)?;
        let lives = status.expiration_timestamp.0.as_second() - jiff::Timestamp::now().as_second();
        // The API server may give a shorter lifetime than the one asked for.
        let lives = Duration::from_secs(u64::try_from(lives).unwrap_or(0));
        Ok(Token { secret: status.token, renew_at: asked + lives * 2 / 3 })
    }
}
