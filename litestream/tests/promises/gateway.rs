//! versitygw, a real S3 server on plain files whose conditional writes are atomic.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyfleet_litestream::authorities::Authorities;
use keyfleet_litestream::bucket::{Location, StaticCredentials};

use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// A running gateway; ends when dropped.
pub(crate) struct Gateway {
    child: Child,
    port: u16,
    /// The authority that signed the server's certificate, where it speaks TLS.
    authorities: Option<Authorities>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Self::spawn(None).await
    }

    /// A server whose certificate a private authority has signed.
    pub(crate) async fn with_tls() -> Self {
        Self::spawn(Some(Tls::new("localhost"))).await
    }

    async fn spawn(tls: Option<Tls>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("fleet")).expect("a bucket is a folder");
        let (child, port) = spawn(folder.path(), &data, tls.as_ref());
        let authorities = tls.map(|tls| Authorities::from_pem(tls.authority.as_bytes()).expect("a good authority"));
        let gateway = Self { child, port, authorities, _folder: folder };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("versitygw did not answer on port {port}");
    }

    pub(crate) fn location(&self, prefix: &str) -> Location {
        Location {
            bucket: "fleet".into(),
            prefix: prefix.into(),
            region: Some("us-east-1".into()),
            endpoint: Some(match self.authorities {
                None => format!("http://127.0.0.1:{}", self.port),
                Some(_) => format!("https://localhost:{}", self.port),
            }),
            force_path_style: None,
            credentials: Some(StaticCredentials {
                access_key_id: ACCESS_KEY.into(),
                secret_access_key: SECRET_KEY.into(),
            }),
            authorities: self.authorities.clone(),
        }
    }
}

/// An authority, and a certificate that it signed.
pub(crate) struct Tls {
    pub(crate) authority: String,
    certificate: String,
    key: String,
}

impl Tls {
    pub(crate) fn new(host: &str) -> Self {
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).expect("an authority");
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let server = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("a host's name");
        let certificate = server.signed_by(&key, &issuer).expect("a certificate");
        Self { authority: authority_certificate.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn spawn(folder: &Path, data: &Path, tls: Option<&Tls>) -> (Child, u16) {
    let mut command = Command::new(binary());
    if let Some(tls) = tls {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&certificate, &tls.certificate).expect("our own folder");
        std::fs::write(&key, &tls.key).expect("our own folder");
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let child = command
        .args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &format!("127.0.0.1:{port}"), "posix"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("versitygw starts");
    (child, port)
}

fn binary() -> PathBuf {
    let folder = std::env::var_os("KEYFLEET_BIN").unwrap_or_else(|| {
        panic!(
            "KEYFLEET_BIN is not set, so there is no real S3 server to test against: \
             run this through `cargo xtask test --only litestream`, which builds versitygw and sets it"
        )
    });
    let binary = PathBuf::from(folder).join("versitygw");
    assert!(
        binary.exists(),
        "{} does not exist: `cargo xtask test --only litestream` builds it and sets KEYFLEET_BIN",
        binary.display()
    );
    binary
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
