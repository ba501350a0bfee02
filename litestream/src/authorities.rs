//! Certificates of a private authority, in the place of the system's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Authorities that may sign a server's certificate: at least one, each of them readable.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities(Arc<[u8]>);

impl Authorities {
    /// Reads a file of PEM certificates.
    ///
    /// # Errors
    /// [`AuthoritiesError`].
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let read = std::fs::read(path).map_err(|error| AuthoritiesError::Read { path: path.to_owned(), error })?;
        Self::from_pem(&read)
    }

    /// Reads PEM certificates, and checks each of them.
    ///
    /// # Errors
    /// [`AuthoritiesError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| AuthoritiesError::Pem(error.to_string()))?;
        if certificates.is_empty() {
            return Err(AuthoritiesError::Empty);
        }
        let mut roots = RootCertStore::empty();
        for (before, certificate) in certificates.into_iter().enumerate() {
            let added = roots.add(certificate);
            added.map_err(|error| AuthoritiesError::Certificate { at: before + 1, what: error.to_string() })?;
        }
        Ok(Self(pem.into()))
    }

    /// Returns a TLS context that trusts these authorities, and none of the system's.
    pub(crate) fn context(&self) -> TlsContext {
        let store = TrustStore::empty().with_pem_certificate(self.0.to_vec());
        TlsContext::builder().with_trust_store(store).build().expect("a context with a trust store is complete")
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({} bytes)", self.0.len())
    }
}

/// Error of reading authorities from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    /// Unreadable file.
    #[error("{}: {error}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the file system.
        error: std::io::Error,
    },
    /// Text that is not PEM.
    #[error("not PEM: {0}")]
    Pem(String),
    /// File without any certificate.
    #[error("there is no certificate in it; PEM is expected, from -----BEGIN CERTIFICATE-----")]
    Empty,
    /// Certificate that cannot be read.
    #[error("certificate {at} cannot be read: {what}")]
    Certificate {
        /// Place of the certificate in the file, from 1.
        at: usize,
        /// Error, in the reader's words.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong file of authorities is refused when it is read, before a request is made to the bucket.
    #[test]
    fn a_file_that_holds_no_certificate_is_refused() {
        let refused = |pem: &[u8]| Authorities::from_pem(pem).expect_err("was accepted").to_string();
        assert!(refused(b"").contains("no certificate"));
        assert!(refused(b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n").contains("no certificate"));
        assert!(refused(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").contains("PEM"));
        let other = refused(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
        assert!(other.contains("certificate 1"), "{other}");
        let nowhere = Authorities::read(Path::new("/nowhere/ca.crt")).expect_err("was read").to_string();
        assert!(nowhere.contains("/nowhere/ca.crt"), "{nowhere}");
    }
}
