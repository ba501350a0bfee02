//! Tokens of a `ServiceAccount`, as `kubectl create token` requests them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use keyfleet_client::{Token, TokenError, Tokens};
use keyfleet_threshold::identifiers::NodeIndex;
use kube::Api;
use kube::api::PostParams;

use crate::kube_client::{KubeClient, innermost};

/// Lifetime of tokens for nodes, in seconds: the shortest that the API server gives.
const TOKEN_SECONDS: i64 = 600;

/// Requests a token for each node's audience when the node is first asked.
pub(crate) struct TokenRequests {
    accounts: Api<ServiceAccount>,
    name: String,
    namespace: String,
    tokens: Mutex<BTreeMap<NodeIndex, Token>>,
}

impl TokenRequests {
    /// Requests tokens of `account`: a name in the client's namespace, or namespace/name.
    pub(crate) fn new(kube: &KubeClient, account: &str) -> Self {
        let (namespace, name) = account.split_once('/').unwrap_or((&kube.namespace, account));
        Self {
            accounts: Api::namespaced(kube.client.clone(), namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            tokens: Mutex::default(),
        }
    }

    async fn request(&self, audience: &str) -> Result<Token, TokenError> {
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: None,
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let created = self.accounts.create_token_request(&self.name, &PostParams::default(), &request).await;
        let status = created.map_err(|error| self.error(&error))?.status;
        let status = status.ok_or_else(|| TokenError::Refused {
            issuer: "the API server".to_owned(),
            problem: "it answered a TokenRequest without a token".to_owned(),
        })?;
        Ok(Token::new(status.token))
    }

    fn error(&self, error: &kube::Error) -> TokenError {
        let issuer = format!("ServiceAccount {}/{}", self.namespace, self.name);
        let problem = innermost(error);
        match error {
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                TokenError::Refused { issuer, problem }
            }
            _ => TokenError::Unavailable { issuer, problem },
        }
    }
}

#[async_trait]
impl Tokens for TokenRequests {
    async fn token(&self, node: NodeIndex, audience: &str, renew: bool) -> Result<Token, TokenError> {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        if let Some(token) = known.filter(|_| !renew) {
            return Ok(token);
        }
        let token = self.request(audience).await?;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(node, token.clone());
        Ok(token)
    }
}
