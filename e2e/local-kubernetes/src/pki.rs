//! The cluster's certificates and keys: one authority, and one certificate for each component's name.
//!
//! Components prove who they are by client certificates (kubelets as `system:node:*`, so that the Node authorizer
//! and NodeRestriction hold them to what is theirs); the API server proves itself to kubelets with its own, which is
//! what `logs`, `exec` and `port-forward` need.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Usage,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::layout::{CONTROL_PLANE, Layout, node_address, node_name};

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM (PKCS #8), readable by its owner alone.
    pub key: PathBuf,
}

/// Where each of the cluster's certificates is.
pub struct Pki<'a>(&'a Layout);

impl<'a> Pki<'a> {
    /// The certificates of `layout`'s cluster.
    pub fn of(layout: &'a Layout) -> Self {
        Self(layout)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.0.at("pki/ca.crt")
    }

    /// A component's certificate by the component's name.
    pub fn pair(&self, component: &str) -> Pair {
        let at = |end: &str| self.0.at(format!("pki/{component}.{end}"));
        Pair { certificate: at("crt"), key: at("key") }
    }

    /// Writes a new authority and all certificates of a cluster with `nodes` nodes.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, nodes: u8) -> Result<()> {
        fs::create_dir_all(self.0.at("pki"))?;
        let ca = authority()?;
        fs::write(self.authority(), ca.pem())?;
        secret(&self.0.at("pki/ca.key"), &ca.key().serialize_pem())?;

        let dns =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        let mut names: Vec<SanType> = Vec::new();
        for name in dns.into_iter().chain(["localhost"]) {
            names.push(SanType::DnsName(name.try_into()?));
        }
        for address in [Ipv4Addr::LOCALHOST, CONTROL_PLANE, Ipv4Addr::new(10, 96, 0, 1)] {
            names.push(SanType::IpAddress(IpAddr::V4(address)));
        }
        self.issue(&ca, "apiserver", "kube-apiserver", None, names)?;
        self.issue(&ca, "apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"), vec![])?;
        self.issue(&ca, "front-proxy", "front-proxy-client", None, vec![])?;
        self.issue(&ca, "admin", "keyfleet-dev-admin", Some("system:masters"), vec![])?;
        self.issue(&ca, "controller-manager", "system:kube-controller-manager", None, vec![])?;
        self.issue(&ca, "scheduler", "system:kube-scheduler", None, vec![])?;
        self.issue(&ca, "proxy", "system:kube-proxy", None, vec![])?;
        self.issue(&ca, "volumes", "system:volumes", Some("system:masters"), vec![])?;
        for index in 1..=nodes {
            let name = node_name(&self.0.name, index);
            let names =
                vec![SanType::DnsName(name.as_str().try_into()?), SanType::IpAddress(node_address(index).into())];
            let subject = format!("system:node:{name}");
            self.issue(&ca, &format!("kubelet-{index}"), &subject, Some("system:nodes"), names)?;
        }

        let tokens = KeyPair::generate()?;
        secret(&self.0.at("pki/service-accounts.key"), &tokens.serialize_pem())?;
        fs::write(self.0.at("pki/service-accounts.pub"), tokens.public_key_pem())?;
        Ok(())
    }

    fn issue(
        &self,
        ca: &CertifiedIssuer<'_, KeyPair>,
        component: &str,
        name: &str,
        group: Option<&str>,
        alternative_names: Vec<SanType>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![Usage::ClientAuth];
        if !alternative_names.is_empty() {
            params.extended_key_usages.push(Usage::ServerAuth);
        }
        params.subject_alt_names = alternative_names;
        let certificate = params.signed_by(&key, ca)?;
        let pair = self.pair(component);
        fs::write(&pair.certificate, certificate.pem())?;
        secret(&pair.key, &key.serialize_pem())
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("keyfleet-dev-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn secret(path: &Path, pem: &str) -> Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
