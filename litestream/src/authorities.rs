//! Certificates of a private authority, in the place of the system's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Who may sign a server's certificate: at least one certificate, each of them readable.
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

    /// Checks PEM certificates.
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

    /// For the client: these, and none of the system's.
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

/// Why a file is no set of authorities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    /// The file.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What.
        error: std::io::Error,
    },
    /// Not PEM.
    #[error("not PEM: {0}")]
    Pem(String),
    /// Nothing between BEGIN CERTIFICATE and END CERTIFICATE.
    #[error("there is no certificate in it; PEM is expected, from -----BEGIN CERTIFICATE-----")]
    Empty,
    /// One that is none.
    #[error("certificate {at} cannot be read: {what}")]
    Certificate {
        /// Which, from 1.
        at: usize,
        /// What is wrong.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_before_anything_is_asked_of_the_bucket() {
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
