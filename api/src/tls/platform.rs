//! A platform's own certificate on the port of callers, and callers who know nodes by it.
//!
//! Both certificates are served at the same time: callers by pin ask for the name that every pinned certificate has, and are
//! shown that one; everyone else is shown the platform's, where there is one that can be used.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::parse_x509_certificate;

use super::certificate::NAME;
use super::verifier::provider;

/// Why a certificate cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// The chain.
    #[error("tls.crt: {0}")]
    Chain(String),
    /// The key.
    #[error("tls.key: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("tls.key is not the key of the first certificate in tls.crt")]
    Mismatch,
    /// Not valid yet.
    #[error("tls.crt is valid only from {0} on")]
    NotYet(String),
    /// Expired.
    #[error("tls.crt expired on {0}")]
    Expired(String),
}

/// A certificate with its key, good to be shown.
#[derive(Clone)]
pub struct PlatformCertificate {
    key: Arc<CertifiedKey>,
    not_after: i64,
}

impl fmt::Debug for PlatformCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlatformCertificate(until {})", self.not_after)
    }
}

impl PlatformCertificate {
    /// Reads `tls.crt` and `tls.key` of a Secret of type `kubernetes.io/tls`. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// What is wrong with which of the two.
    pub fn read(chain: &[u8], key: &[u8], now: i64) -> Result<Self, PlatformError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| PlatformError::Chain(format!("no certificates in PEM: {error}")))?;
        let first = chain.first().ok_or_else(|| PlatformError::Chain("no certificate in PEM".to_owned()))?;
        let (_, parsed) = parse_x509_certificate(first)
            .map_err(|error| PlatformError::Chain(format!("the first certificate is malformed: {error}")))?;
        let validity = parsed.validity();
        if validity.not_before.timestamp() > now {
            return Err(PlatformError::NotYet(validity.not_before.to_string()));
        }
        let not_after = validity.not_after.timestamp();
        if not_after < now {
            return Err(PlatformError::Expired(validity.not_after.to_string()));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| PlatformError::Key(format!("no private key in PEM: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => PlatformError::Mismatch,
            other => PlatformError::Key(other.to_string()),
        })?;
        Ok(Self { key: Arc::new(key), not_after })
    }

    /// Returns true when it has expired at `now`, in seconds since the Unix epoch.
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        self.not_after < now
    }
}

/// The platform's certificate as it is now. Clones share it; connections follow it without a restart.
#[derive(Clone, Default, Debug)]
pub struct Platform(Arc<RwLock<Option<PlatformCertificate>>>);

impl Platform {
    /// Shows another one from now on, or none.
    pub fn set(&self, certificate: Option<PlatformCertificate>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }

    /// The one that is shown.
    #[must_use]
    pub fn get(&self) -> Option<PlatformCertificate> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Chooses what a caller is shown.
#[derive(Debug)]
pub(super) struct OwnOrPlatform {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) platform: Platform,
}

impl ResolvesServerCert for OwnOrPlatform {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_pin = hello.server_name() == Some(NAME);
        let platform = self.platform.get().filter(|_| !by_pin).map(|certificate| certificate.key);
        // A caller that cannot check its signatures gets the other rather than nothing.
        let platform = platform.filter(|one| one.key.choose_scheme(hello.signature_schemes()).is_some());
        Some(platform.unwrap_or_else(|| self.own.clone()))
    }
}

/// Certificate authorities that a caller trusts in the place of pins.
#[derive(Clone, Debug)]
pub struct Authorities(pub(super) Arc<WebPkiServerVerifier>);

/// Why there are no authorities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    /// No PEM, or not certificates.
    #[error("no certificates in PEM: {0}")]
    Pem(String),
    /// A certificate of the bundle is malformed.
    #[error("certificate {at} of the file: {what}")]
    Certificate {
        /// Place in the file, from 1.
        at: usize,
        /// Problem of the certificate.
        what: String,
    },
}

impl Authorities {
    /// Reads a bundle of certificates in PEM.
    ///
    /// # Errors
    /// When there is no certificate in it, or one is malformed.
    pub fn read(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        for (at, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(|error| AuthoritiesError::Pem(error.to_string()))?;
            let added = roots.add(certificate);
            added.map_err(|error| AuthoritiesError::Certificate { at: at + 1, what: error.to_string() })?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        verifier.map(Self).map_err(|error| AuthoritiesError::Pem(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, identity, pins};
    use super::super::{Acceptor, Connector};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

    const NOW: i64 = 1_900_000_000;
    const HOST: &str = "keys-1.keys-nodes.prod.svc";

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Issuer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate and its key in PEM.
    fn issued(issuer: &Issuer, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    }

    fn read(of: &(String, String)) -> Result<PlatformCertificate, PlatformError> {
        PlatformCertificate::read(of.0.as_bytes(), of.1.as_bytes(), NOW)
    }

    fn by(issuer: &Issuer, names: &[&str]) -> Connector {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Connector::of_authorities(&Authorities::read(issuer.pem().as_bytes()).unwrap(), &names).unwrap()
    }

    /// Callers by pin and callers by authority are each shown what they know.
    /// seed: 002-26
    #[tokio::test]
    async fn each_caller_is_shown_the_certificate_that_it_knows() {
        let (ca, other) = (authority(), authority());
        let platform = Platform::default();
        let acceptor = Acceptor::for_callers(&identity(1), pins(&[(1, 1)]), platform.clone()).unwrap();
        let pinned = Connector::new(None, identity(1).public()).unwrap();
        let reaches = async |connector: Connector| call(acceptor.clone(), connector).await.is_ok();
        assert!(!reaches(by(&ca, &[HOST])).await, "a node's own certificate is of no authority");
        platform.set(Some(read(&issued(&ca, HOST, |_| ())).unwrap()));
        assert!(reaches(pinned.clone()).await, "the pin no longer opens the door");
        assert!(reaches(by(&ca, &[HOST])).await, "the platform's certificate is not shown");
        assert!(reaches(by(&ca, &["keys.prod.svc", HOST])).await, "it is for the second name that was given");
        assert!(!reaches(by(&ca, &["keys-2.keys-nodes.prod.svc"])).await, "it is for another name");
        assert!(!reaches(by(&other, &[HOST])).await, "it is of another authority");
        let stranger = Connector::new(None, identity(2).public()).unwrap();
        assert!(!reaches(stranger).await, "another pin was taken");
        // Renewed by another authority, without a restart.
        platform.set(Some(read(&issued(&other, HOST, |_| ())).unwrap()));
        assert!(reaches(by(&other, &[HOST])).await && !reaches(by(&ca, &[HOST])).await, "the old one is still shown");
        platform.set(None);
        assert!(reaches(pinned).await && !reaches(by(&other, &[HOST])).await, "one that was taken back is still shown");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_is_wrong() {
        let ca = authority();
        let good = issued(&ca, HOST, |_| ());
        assert!(read(&good).is_ok_and(|one| !one.is_expired(NOW) && one.is_expired(i64::MAX)));
        let chain = (format!("{}{}", good.0, ca.pem()), good.1.clone());
        assert!(read(&chain).is_ok(), "a chain with its authority");
        let expired = issued(&ca, HOST, |params| params.not_after = date_time_ymd(2020, 2, 1));
        let early = issued(&ca, HOST, |params| params.not_before = date_time_ymd(2090, 2, 1));
        let cases = [
            (expired, "expired on Feb"),
            (early, "valid only from Feb"),
            ((good.0.clone(), issued(&ca, HOST, |_| ()).1), "tls.key is not the key of"),
            ((good.0.clone(), String::new()), "tls.key: no private key in PEM"),
            ((String::new(), good.1.clone()), "tls.crt: no certificate in PEM"),
            ((good.1.clone(), good.1.clone()), "tls.crt: no certificate in PEM"),
            ((good.0.replace('M', "N"), good.1.clone()), "tls.crt: "),
        ];
        for (of, says) in cases {
            let error = read(&of).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says), "expected `{says}`, got `{error}`");
        }
    }

    #[test]
    fn a_bundle_without_authorities_is_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Authorities::read(pem.as_bytes()).is_err(), "`{pem}` was taken for authorities");
        }
        let refused = [Vec::new(), vec!["not a name!".to_owned()]].map(|names| {
            Connector::of_authorities(&Authorities::read(authority().pem().as_bytes()).unwrap(), &names).is_err()
        });
        assert_eq!(refused, [true, true], "a certificate for no name would be one for all");
    }
}
