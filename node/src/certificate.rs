//! The platform's certificate for callers, as the Secret of `spec.tls.kmsCertificateSecret` is mounted. It is read anew when
//! it changes: whoever renews it (cert-manager, a person) restarts nothing.
//!
//! What cannot be used is a problem in `status.node` and no reason to stop: a certificate that was read before serves until it
//! expires, and callers by pin are never shown it anyway.

use std::path::PathBuf;
use std::time::Duration;

use keyfleet_api::tls::{Platform, PlatformCertificate, PlatformFault};
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use zeroize::Zeroizing;

use crate::apiserver::status::Problems;
use crate::grpc::kms::now_seconds;

/// How often the folder is read. The kubelet takes a minute to bring a changed Secret there.
const LOOK: Duration = Duration::from_secs(5);

/// A mounted certificate.
pub(crate) struct Mounted {
    folder: PathBuf,
    platform: Platform,
    problems: Problems,
    /// What was read last: chain and key.
    read: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Mounted {
    pub(crate) fn new(folder: PathBuf, platform: Platform, problems: Problems) -> Self {
        Self { folder, platform, problems, read: None }
    }

    /// Follows the folder, and the certificate's time, for as long as the process lives.
    pub(crate) async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look();
        }
    }

    /// Reads what is there now.
    pub(crate) fn look(&mut self) {
        let now = i64::try_from(now_seconds()).unwrap_or(i64::MAX);
        if self.platform.get().is_some_and(|certificate| certificate.is_expired(now)) {
            self.platform.set(None);
        }
        let file = |name: &str| std::fs::read(self.folder.join(name));
        let (chain, key) = match (file("tls.crt"), file("tls.key")) {
            (Ok(chain), Ok(key)) => (chain, Zeroizing::new(key)),
            (chain, _) => {
                self.read = None;
                let missing = if chain.is_err() { "tls.crt" } else { "tls.key" };
                let what =
                    format!("the Secret that spec.tls.kmsCertificateSecret names, or its {missing}, is not there");
                return self.trouble(&what, "create it, of type kubernetes.io/tls");
            }
        };
        // Read before, and still shown: nothing can have become of it.
        let same = self.read.as_ref().is_some_and(|(a, b)| *a == chain && **b == *key);
        if same && self.platform.get().is_some() {
            return;
        }
        match PlatformCertificate::read(&chain, &key, now) {
            Ok(certificate) => {
                tracing::info!(?certificate, "callers are shown the platform's certificate");
                self.platform.set(Some(certificate));
                self.problems.clear(ProblemAbout::Tls);
                self.read = Some((chain, key));
            }
            Err(fault) => {
                self.read = None;
                let next = match fault {
                    PlatformFault::NotYet(_) => "wait, or put one that is valid now into the Secret",
                    PlatformFault::Expired(_) => "renew it",
                    _ => "put a certificate with its key into the Secret that spec.tls.kmsCertificateSecret names",
                };
                self.trouble(&fault.to_string(), next);
            }
        }
    }

    fn trouble(&self, what: &str, next: &str) {
        let meanwhile = match self.platform.get() {
            Some(_) => "the one before it is shown until it expires",
            None => "the node's own certificate is shown",
        };
        let message = format!("{what}: {next}. Until then {meanwhile}; callers by pin notice nothing");
        self.problems.set(ProblemAbout::Tls, Reason::CertificateUnusable, &message);
    }
}
