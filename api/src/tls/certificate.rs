//! The certificate of an identity: self-signed, the same key in it that the pin names.

use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

/// The name in every certificate. It proves nothing; the pin does.
pub(super) const NAME: &str = "node.keyfleet.internal";

/// PKCS #8 around an Ed25519 seed (RFC 8410 §7), and SubjectPublicKeyInfo around a public key (§4).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// No TLS can be made of an identity: a defect of this program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The certificate.
    #[error("the identity's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The configuration.
    #[error("the identity's TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A name to ask for that is neither a host name nor an address.
    #[error("`{0}` is neither a host name nor an address")]
    Name(String),
}

pub(super) fn self_signed(
    identity: &IdentitySecretKey,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertificateError> {
    let pkcs8 = Zeroizing::new([PKCS8_PREFIX.as_slice(), identity.expose_seed().as_slice()].concat());
    let private = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&private, &PKCS_ED25519)?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
    // rustls keeps its own copy for as long as the process shows this identity.
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(private.clone_key())))
}

/// The identity key in a certificate; `None` when it is no Ed25519 certificate.
#[must_use]
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<IdentityPublicKey> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let info = certificate.subject_public_key_info();
    info.as_ref().strip_prefix(SPKI_PREFIX.as_slice())?.try_into().ok().map(IdentityPublicKey)
}
