//! versitygw, a real S3 server on plain files whose conditional writes are atomic.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyfleet_litestream::bucket::{Location, StaticCredentials};

use crate::s3::{ACCESS_KEY, SECRET_KEY};

/// A running gateway; ends when dropped.
pub(crate) struct Gateway {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("fleet")).expect("a bucket is a folder");
        let (child, port) = spawn(folder.path());
        let gateway = Self { child, port, _folder: folder };
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
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            force_path_style: None,
            credentials: Some(StaticCredentials {
                access_key_id: ACCESS_KEY.into(),
                secret_access_key: SECRET_KEY.into(),
            }),
            authorities: None,
        }
    }
}

fn spawn(folder: &std::path::Path) -> (Child, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let child = Command::new(binary())
        .args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &format!("127.0.0.1:{port}"), "posix"])
        .arg(folder)
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
