//! Proof of a caller's identity: a token for each node, so that what one node sees opens no other.

use std::path::PathBuf;

use async_trait::async_trait;
use keyfleet_threshold::identifiers::NodeIndex;
use tonic::metadata::AsciiMetadataValue;
use zeroize::Zeroizing;

/// A bearer token. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes a token over.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token, for the one header that carries it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The header that carries it, left out of logs.
    pub(crate) fn authorization(&self) -> Result<AsciiMetadataValue, NoToken> {
        let mut header: AsciiMetadataValue = format!("Bearer {}", self.expose())
            .parse()
            .map_err(|_| NoToken { why: "the token has characters that no token has".to_owned(), lasting: true })?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Why there is no token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{why}")]
pub struct NoToken {
    /// Problem and next step.
    pub why: String,
    /// True when asking again is pointless.
    pub lasting: bool,
}

/// Where tokens come from.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A token whose only Keyfleet audience is `audience`, that node's. With `renew`, not the one that was handed out before:
    /// the node did not take it.
    ///
    /// # Errors
    /// When no token can be had: the reason.
    async fn token(&self, node: NodeIndex, audience: &str, renew: bool) -> Result<Token, NoToken>;
}

/// Tokens in files, one for each node: `<folder>/<index>`. They are read at every use, since projected tokens are renewed
/// in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFiles(pub PathBuf);

#[async_trait]
impl Tokens for TokenFiles {
    async fn token(&self, node: NodeIndex, audience: &str, _: bool) -> Result<Token, NoToken> {
        let path = self.0.join(node.to_string());
        match tokio::fs::read_to_string(&path).await {
            Ok(token) => Ok(Token::new(token.trim().to_owned())),
            Err(error) => Err(NoToken {
                why: format!("{}: {error}; it should hold a token for the audience {audience}", path.display()),
                lasting: error.kind() == std::io::ErrorKind::NotFound,
            }),
        }
    }
}
