//! TLS 1.3 by pin: certificates are self-signed by the identity key, and everyone compares the key with the pin.
//!
//! There is no authority whose key could be stolen, and no expiry: a pin is valid until the operator's record says
//! otherwise. The verifiers compare the certificate's public key with the pin and check the handshake's signature under it;
//! names, dates and the certificate's own signature prove nothing beyond that and are not looked at. The port of peers
//! also takes callers without a certificate: they must bring a token.
//!
//! On the port of callers a platform's own certificate may be shown beside the pinned one, and a caller may know nodes by
//! certificate authorities in the place of pins ([`Platform`], [`Authorities`]). Peers and operator never do.

mod certificate;
mod platform;
mod verifier;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use keyfleet_threshold::identifiers::NodeIndex;
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub use certificate::{CertificateError, identity_of};
pub use platform::{Authorities, AuthoritiesError, Platform, PlatformCertificate, PlatformError};

/// The identities that are pinned now, by index. Followed without a restart.
#[derive(Clone, Default, Debug)]
pub struct Pins(Arc<RwLock<BTreeMap<NodeIndex, IdentityPublicKey>>>);

impl Pins {
    /// Replaces all pins.
    pub fn set(&self, pins: BTreeMap<NodeIndex, IdentityPublicKey>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = pins;
    }

    /// The pin of an index.
    #[must_use]
    pub fn get(&self, index: NodeIndex) -> Option<IdentityPublicKey> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&index).copied()
    }

    /// Returns the index of the node whose pin this identity is.
    #[must_use]
    pub fn index_of(&self, identity: &IdentityPublicKey) -> Option<NodeIndex> {
        let pins = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        pins.iter().find(|(_, pinned)| *pinned == identity).map(|(index, _)| *index)
    }
}

/// Accepts connections.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    pins: Pins,
}

impl Acceptor {
    /// An acceptor that shows `identity`: for the port of peers.
    ///
    /// # Errors
    /// When no certificate can be made of it.
    pub fn new(identity: &IdentitySecretKey, pins: Pins) -> Result<Self, CertificateError> {
        Self::for_callers(identity, pins, Platform::default())
    }

    /// An acceptor that shows `identity` to who calls by pin, and the platform's certificate, where there is one, to everyone
    /// else.
    ///
    /// # Errors
    /// When no certificate can be made of the identity.
    pub fn for_callers(identity: &IdentitySecretKey, pins: Pins, platform: Platform) -> Result<Self, CertificateError> {
        let (chain, key) = certificate::self_signed(identity)?;
        let own = CertifiedKey::from_der(vec![chain], key, &verifier::provider())?;
        let config = ServerConfig::builder_with_provider(verifier::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier::AnyPinned(pins.clone())))
            .with_cert_resolver(Arc::new(platform::OwnOrPlatform { own: Arc::new(own), platform }));
        Ok(Self { tls: TlsAcceptor::from(Arc::new(with_http2(config))), pins })
    }

    /// Finishes a handshake. Answers who is there: `None` for a caller without a certificate.
    ///
    /// # Errors
    /// When the handshake fails, or the certificate's key is pinned no more.
    pub async fn accept(&self, tcp: TcpStream) -> std::io::Result<(server::TlsStream<TcpStream>, Option<NodeIndex>)> {
        let stream = self.tls.accept(tcp).await?;
        let peer = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            None => None,
            Some(certificate) => {
                let index = identity_of(certificate).and_then(|identity| self.pins.index_of(&identity));
                Some(index.ok_or_else(|| std::io::Error::other("the caller's identity is not pinned"))?)
            }
        };
        Ok((stream, peer))
    }
}

fn with_http2(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the comparison with the pins as they are now.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Connects to one node, by its pin or by certificate authorities.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    /// A connector to the node whose identity is `pin`. It shows `identity`, if given.
    ///
    /// # Errors
    /// When no certificate can be made of it.
    pub fn new(identity: Option<&IdentitySecretKey>, pin: IdentityPublicKey) -> Result<Self, CertificateError> {
        let config = ClientConfig::builder_with_provider(verifier::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier::ThisPin(pin)));
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = certificate::self_signed(identity)?;
                config.with_client_auth_cert(vec![chain], key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self::of(config, ServerName::try_from(certificate::NAME).expect("the name is one")))
    }

    /// A connector to whoever shows a certificate of these authorities for one of `names`: host names or addresses. The first
    /// is asked for.
    ///
    /// # Errors
    /// When there is no name, or one is malformed.
    pub fn of_authorities(authorities: &Authorities, names: &[String]) -> Result<Self, CertificateError> {
        let parsed = names.iter().map(|name| ServerName::try_from(name.clone()).map_err(|_| name.clone()));
        let names = parsed.collect::<Result<Vec<_>, _>>().map_err(CertificateError::Name)?;
        let first = names.first().cloned().ok_or_else(|| CertificateError::Name(String::new()))?;
        let mut config = ClientConfig::builder_with_provider(verifier::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier::OfAuthorities {
                authorities: authorities.clone(),
                names,
            }))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self::of(config, first))
    }

    fn of(config: ClientConfig, name: ServerName<'static>) -> Self {
        Self { tls: TlsConnector::from(Arc::new(config)), name }
    }

    /// Finishes a handshake.
    ///
    /// # Errors
    /// When it fails: the node is not the pinned one, or does not take this caller.
    pub async fn connect<S>(&self, stream: S) -> std::io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.tls.connect(self.name.clone(), stream).await
    }
}

/// Returns true when a handshake failed because the peer is not the pinned one.
#[must_use]
pub fn is_wrong_pin(error: &(dyn std::error::Error + 'static)) -> bool {
    // An I/O error hides what it wraps from `source`.
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| error.downcast_ref());
    let refused = rustls::CertificateError::ApplicationVerificationFailure;
    matches!(tls, Some(rustls::Error::InvalidCertificate(found)) if *found == refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::sign::SingleCertAndKey;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    pub(super) fn identity(byte: u8) -> IdentitySecretKey {
        IdentitySecretKey::from_seed(&[byte; 32])
    }

    fn index(index: u32) -> NodeIndex {
        NodeIndex::new(index).unwrap()
    }

    pub(super) fn pins(nodes: &[(u32, u8)]) -> Pins {
        let pins = Pins::default();
        pins.set(nodes.iter().map(|(i, byte)| (index(*i), identity(*byte).public())).collect());
        pins
    }

    /// Returns the caller as the server knows it, after a byte went each way; or the client's error.
    pub(super) async fn call(acceptor: Acceptor, connector: Connector) -> Result<Option<NodeIndex>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async move {
            let (mut stream, peer) = acceptor.accept(listener.accept().await.unwrap().0).await?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            stream.write_all(&byte).await?;
            stream.shutdown().await?;
            Ok::<_, std::io::Error>(peer)
        };
        let client = async move {
            let mut stream = connector.connect(TcpStream::connect(address).await?).await?;
            stream.write_all(&[7]).await?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            Ok::<_, std::io::Error>(byte)
        };
        let (server, client) = tokio::join!(server, client);
        client.map_err(|error| error.to_string())?;
        server.map_err(|error| error.to_string())
    }

    /// Peers know each other by their pins; a caller without a certificate is nobody.
    #[tokio::test]
    async fn peers_know_each_other_by_their_pins() {
        let pins = pins(&[(1, 1), (2, 2)]);
        let acceptor = Acceptor::new(&identity(1), pins.clone()).unwrap();
        let peer = Connector::new(Some(&identity(2)), identity(1).public()).unwrap();
        assert_eq!(call(acceptor.clone(), peer.clone()).await, Ok(Some(index(2))));
        let nobody = Connector::new(None, identity(1).public()).unwrap();
        assert_eq!(call(acceptor.clone(), nobody).await, Ok(None));
        pins.set([(index(1), identity(1).public())].into());
        assert!(call(acceptor, peer).await.is_err(), "a node whose pin was taken away still comes in");
    }

    /// seed: 002-26
    #[tokio::test]
    async fn another_identity_than_the_pinned_one_is_refused_on_both_sides() {
        let acceptor = Acceptor::new(&identity(1), pins(&[(1, 1), (2, 2)])).unwrap();
        let stranger = Connector::new(Some(&identity(3)), identity(1).public()).unwrap();
        assert!(call(acceptor.clone(), stranger).await.is_err(), "a stranger was let in");
        let misled = Connector::new(Some(&identity(2)), identity(9).public()).unwrap();
        assert!(call(acceptor, misled).await.is_err(), "a server that is not the pinned one was trusted");
    }

    /// A certificate is public: whoever shows it must also sign the handshake with its key.
    #[tokio::test]
    async fn a_copied_certificate_without_its_key_opens_nothing() {
        let (certificate, _) = certificate::self_signed(&identity(1)).unwrap();
        let (_, other_key) = certificate::self_signed(&identity(9)).unwrap();
        let forged = |chain: CertificateDer<'static>, key: &rustls::pki_types::PrivateKeyDer<'static>| {
            let signer = verifier::provider().key_provider.load_private_key(key.clone_key()).unwrap();
            Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![chain], signer)))
        };
        let server = ServerConfig::builder_with_provider(verifier::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(verifier::AnyPinned(Pins::default())))
            .with_cert_resolver(forged(certificate.clone(), &other_key));
        let impostor = Acceptor { tls: TlsAcceptor::from(Arc::new(with_http2(server))), pins: Pins::default() };
        let caller = Connector::new(None, identity(1).public()).unwrap();
        assert!(call(impostor, caller).await.is_err(), "a server with a copied certificate was trusted");

        let mut client = ClientConfig::builder_with_provider(verifier::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier::ThisPin(identity(2).public())))
            .with_client_cert_resolver(forged(certificate, &other_key));
        client.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = Acceptor::new(&identity(2), pins(&[(1, 1), (2, 2)])).unwrap();
        let impostor = Connector::of(client, ServerName::try_from(certificate::NAME).unwrap());
        assert!(call(acceptor, impostor).await.is_err(), "a caller with a copied certificate was let in");
    }
}
