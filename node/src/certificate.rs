//! The platform's certificate for callers, as the Secret of `spec.tls.kmsCertificateSecret` is mounted. It is read anew when
//! it changes: whoever renews it (cert-manager, a person) restarts nothing.
//!
//! A certificate that cannot be used is a problem in `status.node` and no reason to stop: one that was read before serves until it
//! expires, and callers by pin are never shown it anyway.

use std::path::PathBuf;
use std::time::Duration;

use keyfleet_api::tls::{Platform, PlatformCertificate, PlatformError};
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node::report::ProblemAbout;
use zeroize::Zeroizing;

use crate::apiserver::status::Problems;
use crate::clock::now_seconds;

/// Interval of reading the folder. The kubelet takes a minute to bring a changed Secret there.
const LOOK: Duration = Duration::from_secs(5);

/// A mounted certificate.
pub(crate) struct Mounted {
    folder: PathBuf,
    platform: Platform,
    problems: Problems,
    /// Chain and key as they were read last.
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
            Err(error) => {
                self.read = None;
                let next = match error {
                    PlatformError::NotYet(_) => "wait, or put one that is valid now into the Secret",
                    PlatformError::Expired(_) => "renew it",
                    _ => "put a certificate with its key into the Secret that spec.tls.kmsCertificateSecret names",
                };
                self.trouble(&error.to_string(), next);
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    struct Secret {
        folder: tempfile::TempDir,
        platform: Platform,
        problems: Problems,
        mounted: Mounted,
    }

    impl Secret {
        fn new() -> Self {
            let (folder, platform, problems) = (tempfile::tempdir().unwrap(), Platform::default(), Problems::default());
            let mounted = Mounted::new(folder.path().to_owned(), platform.clone(), problems.clone());
            Self { folder, platform, problems, mounted }
        }

        /// Puts files into the folder. Returns the problem that is shown then, and the log.
        fn holds(&mut self, files: Option<&(String, String)>) -> (Option<String>, String) {
            for (name, content) in
                ["tls.crt", "tls.key"].into_iter().zip(files.map(|of| [&of.0, &of.1]).into_iter().flatten())
            {
                std::fs::write(self.folder.path().join(name), content).unwrap();
            }
            if files.is_none() {
                let _ = std::fs::remove_file(self.folder.path().join("tls.crt"));
            }
            self.mounted.look();
            let said =
                self.problems.all().into_iter().map(|problem| format!("{}: {}", problem.reason, problem.message));
            (self.platform.get().map(|one| format!("{one:?}")), said.collect())
        }
    }

    fn certificate(year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["keys.prod.svc".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// A Secret is followed; what is wrong with it is reported, and the certificate read before is shown meanwhile.
    ///
    /// seed: 002-26
    #[test]
    fn a_bad_secret_is_reported_and_the_old_one_is_shown() {
        let mut secret = Secret::new();
        let (shown, said) = secret.holds(None);
        assert_eq!(shown, None);
        assert!(said.starts_with("CertificateUnusable") && said.contains("create it"), "{said}");
        assert!(said.contains("own certificate is shown"), "{said}");
        let (shown, said) = secret.holds(Some(&certificate(2020)));
        assert!(shown.is_none() && said.contains("expired on") && said.contains("renew it"), "{said}");
        let good = certificate(2090);
        let (first, said) = secret.holds(Some(&good));
        assert!(first.is_some() && said.is_empty(), "a good one is shown, and the problem is over: {said}");
        let (shown, said) = secret.holds(Some(&(certificate(2091).0, good.1.clone())));
        assert_eq!(shown, first, "the one before it serves on");
        assert!(said.contains("not the key of") && said.contains("the one before it is shown"), "{said}");
        let (renewed, said) = secret.holds(Some(&certificate(2092)));
        assert!(renewed.is_some() && renewed != first && said.is_empty(), "the renewed one is not shown: {said}");
        let (shown, said) = secret.holds(None);
        assert!(shown == renewed && said.contains("tls.crt, is not there"), "{said}");
    }
}
