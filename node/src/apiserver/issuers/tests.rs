//! An issuer on the real wire: HTTPS, with a certificate of an authority of its own.

use std::sync::Mutex;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::boot::recover::{Parts, start};
use crate::keystores::decision::StoreKind;
use crate::keystores::volume::VolumeStore;
use crate::round::Started;
use crate::seal::{KeyEncryptionKey, KeyRing};
use crate::serving::Tokens;
use crate::serving::token::TokenError;
use crate::store::Backing;
use crate::store::bundles::BundleFile;
use keyfleet_api::wire::audience;
use keyfleet_threshold::identifiers::{ClusterId, NodeIndex};

const NAME: &str = "corp";
const NOW: u64 = 1_800_000_000;
const CLUSTER: ClusterId = ClusterId(*b"a cluster's name");

fn signing_key(byte: u8) -> EncodingKey {
    let pkcs8 =
        [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20], [byte; 32].as_slice()].concat();
    EncodingKey::from_ed_der(&pkcs8)
}

/// An issuer that serves its documents over HTTPS.
struct Server {
    url: String,
    /// The authority of its certificate, in PEM.
    authority: String,
    keys: Arc<Mutex<Vec<u8>>>,
    /// The issuer in its discovery document; its URL where this is empty.
    says: Arc<Mutex<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(keys: &[u8]) -> Self {
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, authority_key);
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(ring::default_provider().into());
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls = tls.with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (keys, says) = (Arc::new(Mutex::new(keys.to_vec())), Arc::new(Mutex::new(String::new())));
        let task =
            tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), url.clone(), keys.clone(), says.clone()));
        Self { url, authority, keys, says, task }
    }

    fn token(&self, key: u8, audience: &str) -> String {
        let claims = json!({
            "iss": self.url, "sub": "build@corp", "aud": audience, "iat": NOW, "nbf": NOW, "exp": NOW + 600,
        });
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(format!("key-{key}"));
        encode(&header, &claims, &signing_key(key)).unwrap()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    url: String,
    keys: Arc<Mutex<Vec<u8>>>,
    says: Arc<Mutex<String>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        // A caller that does not trust the certificate ends the handshake.
        let Ok(mut stream) = tls.accept(tcp).await else { continue };
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                _ => break,
            }
        }
        let text = String::from_utf8_lossy(&request);
        let body = if text.starts_with("GET /.well-known/openid-configuration ") {
            let says = says.lock().unwrap().clone();
            let issuer = if says.is_empty() { url.clone() } else { says };
            json!({ "issuer": issuer, "jwks_uri": format!("{url}/keys") })
        } else {
            let key = |byte: &u8| {
                let mut jwk = Jwk::from_encoding_key(&signing_key(*byte), Algorithm::EdDSA).unwrap();
                jwk.common.key_id = Some(format!("key-{byte}"));
                jwk
            };
            json!({ "keys": keys.lock().unwrap().iter().map(key).collect::<Vec<_>>() })
        };
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Issuers as a node is configured with them, the authorities mounted in `folder`.
fn issuers(server: &Server, folder: &Path, private: bool) -> Issuers {
    let mut access = json!({ "issuers": [{ "name": NAME, "url": server.url }] });
    if private {
        access["issuers"][0]["caConfigMap"] = json!("corp-ca");
    }
    let access: Access = serde_json::from_value(access).unwrap();
    let nobody = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(nobody).unwrap();
    Issuers { client, access: watch::Sender::new(Arc::new(access)).subscribe(), folder: folder.to_owned() }
}

/// A node that has just come up, with everything it stores in `folder`.
async fn started(node: NodeIndex, folder: &Path) -> Started {
    let key = KeyEncryptionKey::new("test", [7; 32]).unwrap();
    let parts = Parts {
        backing: Backing::local(&folder.join("state.redb")).unwrap(),
        bundles: BundleFile::open(&folder.join("bundles.redb")).unwrap(),
        volume: Arc::new(VolumeStore::open(folder.join("seal")).unwrap()),
        secret: Arc::new(VolumeStore::open_as(StoreKind::Secret, folder.join("secret")).unwrap()),
        ring: KeyRing::new(CLUSTER, node, vec![key]).unwrap(),
    };
    start(parts).await.unwrap()
}

/// The keys of an issuer behind its own authority are found, and followed through a rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_issuer_behind_a_private_ca_are_followed() {
    let server = Server::start(&[1]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(NAME)).unwrap();
    std::fs::write(folder.path().join(NAME).join("ca.crt"), &server.authority).unwrap();
    let state = tempfile::tempdir().unwrap();
    let node = NodeIndex::new(1).unwrap();
    let started = started(node, state.path()).await;
    let persister = &started.persister;
    let names = [NAME.to_owned()];
    let source = Arc::new(issuers(&server, folder.path(), true));
    let owner = (CLUSTER, node);
    let tokens = Tokens::new(owner, &names, source, persister.store().clone(), persister.node_key().clone()).unwrap();
    let own = audience(CLUSTER, node.value());
    let check = async |token: String, now: u64| tokens.check(&token, &names, 3600, now).await;

    let caller = check(server.token(1, &own), NOW + 1).await.expect("a token of the issuer");
    assert_eq!((caller.issuer.as_str(), caller.subject.as_str()), (NAME, "build@corp"));
    *server.keys.lock().unwrap() = vec![2];
    let before = check(server.token(2, &own), NOW + 2).await;
    assert_eq!(before, Err(TokenError::UnknownKey), "keys are not asked for with every unknown token");
    check(server.token(2, &own), NOW + 60).await.expect("a key that came with a rotation");
    let gone = check(server.token(1, &own), NOW + 61).await;
    assert_eq!(gone, Err(TokenError::UnknownKey), "a key that went with a rotation counts on");
}

/// An issuer that is not the expected one gives no keys, and the reason is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_issuer_gives_no_keys() {
    let (server, other) = (Server::start(&[1]).await, Server::start(&[1]).await);
    let folder = tempfile::tempdir().unwrap();
    let fetch = async |private: bool| issuers(&server, folder.path(), private).fetch(NAME).await;
    let refused = |fetched: Result<FetchedKeys, IssuerError>| fetched.expect_err("keys were taken").to_string();
    let said = refused(fetch(false).await);
    assert!(said.contains("openid-configuration"), "without its authority, of the web's: {said}");
    let said = refused(fetch(true).await);
    assert!(said.contains("corp/ca.crt"), "the authority is not mounted: {said}");
    let file = folder.path().join(NAME).join("ca.crt");
    std::fs::create_dir(folder.path().join(NAME)).unwrap();
    std::fs::write(&file, "not a certificate").unwrap();
    let said = refused(fetch(true).await);
    assert!(said.contains("no certificate in PEM"), "{said}");
    std::fs::write(&file, &other.authority).unwrap();
    let said = refused(fetch(true).await);
    assert!(said.contains("openid-configuration"), "another authority's: {said}");
    std::fs::write(&file, &server.authority).unwrap();
    assert_eq!(fetch(true).await.expect("with its own authority").issuer, server.url);
    *server.says.lock().unwrap() = other.url.clone();
    let said = refused(fetch(true).await);
    assert!(said.contains(&other.url), "one issuer speaks for another: {said}");
}
