//! The verifiers: a client's, which knows whom it calls by pin or by authorities, and a server's, which takes whoever is
//! pinned.

use std::sync::Arc;

use keyfleet_threshold::identity::IdentityPublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use subtle::ConstantTimeEq as _;

use super::certificate::identity_of;
use super::{Authorities, Pins};

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes exactly one identity.
#[derive(Debug)]
pub(super) struct ThisPin(pub(super) IdentityPublicKey);

/// Takes whoever shows a certificate of the authorities for one of the names.
#[derive(Debug)]
pub(super) struct OfAuthorities {
    pub(super) authorities: Authorities,
    pub(super) names: Vec<ServerName<'static>>,
}

/// Takes every identity that is pinned now.
#[derive(Debug)]
pub(super) struct AnyPinned(pub(super) Pins);

fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Methods that both traits have in common: the identity key signed the handshake, under TLS 1.3.
macro_rules! signed_by_an_identity {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.3 only".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

impl ServerCertVerifier for ThisPin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = identity_of(certificate).ok_or_else(refused)?;
        if bool::from(shown.0.ct_eq(&self.0.0)) { Ok(ServerCertVerified::assertion()) } else { Err(refused()) }
    }

    signed_by_an_identity!();
}

impl ServerCertVerifier for OfAuthorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name| self.authorities.0.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let first = verify(name);
        // A person is shown what is wrong with the first name.
        if first.is_ok() { first } else { self.names.iter().find_map(|name| verify(name).ok()).map_or(first, Ok) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.0.supported_verify_schemes()
    }
}

impl ClientCertVerifier for AnyPinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let known = identity_of(certificate).and_then(|identity| self.0.index_of(&identity));
        if known.is_some() { Ok(ClientCertVerified::assertion()) } else { Err(refused()) }
    }

    signed_by_an_identity!();
}
