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
    /// Wraps the text of a token.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// Returns the text, for the one header that carries it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the header that carries the token, marked to be left out of logs.
    pub(crate) fn authorization(&self) -> Result<AsciiMetadataValue, TokenError> {
        let mut header: AsciiMetadataValue =
            format!("Bearer {}", self.expose()).parse().map_err(|_| TokenError::Malformed)?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Why there is no token for a node. The caller is at fault, except for [`TokenError::Unavailable`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No file holds a token for the node.
    #[error("there is no file {path}; put a token for the audience {audience} there", path = path.display())]
    Missing {
        /// Path where the token is expected.
        path: PathBuf,
        /// Audience that the token must have.
        audience: String,
    },
    /// The file with the token cannot be read.
    #[error("{path}: {problem}; it should hold a token for the audience {audience}", path = path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Audience that the token must have.
        audience: String,
        /// Error of the file system.
        problem: String,
    },
    /// The token cannot be sent: it has characters that no token has.
    #[error("the token has characters that no token has; request a new one")]
    Malformed,
    /// The issuer refuses to give the caller a token.
    #[error("{issuer}: {problem}")]
    Refused {
        /// Issuer, or the account whose token was requested.
        issuer: String,
        /// The issuer's answer.
        problem: String,
    },
    /// The issuer does not answer. The issuer, or the way to it, is at fault.
    #[error("{issuer}: {problem}")]
    Unavailable {
        /// Issuer, or the account whose token was requested.
        issuer: String,
        /// Error of the connection, or the issuer's answer.
        problem: String,
    },
}

impl TokenError {
    /// Returns true when asking again is pointless.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unreadable { .. } | Self::Unavailable { .. })
    }
}

/// Source of tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Returns a token whose only Keyfleet audience is `audience`, that node's. With `renew` it is a fresh one: the node refused the
    /// one before.
    ///
    /// # Errors
    /// When no token can be had.
    async fn token(&self, node: NodeIndex, audience: &str, renew: bool) -> Result<Token, TokenError>;
}

/// Tokens in files, one for each node: `<folder>/<index>`. They are read at every use, since projected tokens are renewed
/// in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFiles(pub PathBuf);

#[async_trait]
impl Tokens for TokenFiles {
    async fn token(&self, node: NodeIndex, audience: &str, _: bool) -> Result<Token, TokenError> {
        let path = self.0.join(node.to_string());
        match tokio::fs::read_to_string(&path).await {
            Ok(token) => Ok(Token::new(token.trim().to_owned())),
            Err(error) => {
                let audience = audience.to_owned();
                Err(match error.kind() {
                    std::io::ErrorKind::NotFound => TokenError::Missing { path, audience },
                    _ => TokenError::Unreadable { path, audience, problem: error.to_string() },
                })
            }
        }
    }
}
