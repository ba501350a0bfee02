//! The place of a replica in the bucket, and the condition reason of what the bucket answers.

use std::path::Path;

use keyfleet_crds::cluster::storage::S3;
use keyfleet_crds::conditions::Reason;
use keyfleet_crds::node_config::S3_CA_FOLDER;
use keyfleet_litestream::authorities::{Authorities, AuthoritiesError};
use keyfleet_litestream::bucket::{ErrorKind, Location};

/// `spec.replication.s3.caConfigMap` names what cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "spec.replication.s3.caConfigMap: the ConfigMap {config_map} must hold the certificates that the bucket's server may be \
     signed by, as PEM under the key ca.crt. {error}"
)]
pub(crate) struct CaConfigMapError {
    config_map: String,
    error: AuthoritiesError,
}

/// Returns a folder of the bucket, below the prefix that the cluster names. Credentials are the environment's.
///
/// # Errors
/// When the ConfigMap of authorities is named and not there, or does not hold certificates.
pub(crate) fn location(s3: &S3, folder: &str) -> Result<Location, CaConfigMapError> {
    let prefix = s3.prefix.iter().map(String::as_str).chain((!folder.is_empty()).then_some(folder));
    Ok(Location {
        bucket: s3.bucket.clone(),
        prefix: prefix.collect::<Vec<_>>().join("/"),
        region: Some(s3.region.clone()),
        endpoint: s3.endpoint.clone(),
        force_path_style: Some(s3.force_path_style),
        credentials: None,
        authorities: s3.ca_config_map.as_ref().map(|name| authorities(Path::new(S3_CA_FOLDER), name)).transpose()?,
    })
}

/// Reads the certificates that a ConfigMap holds, as it is mounted.
fn authorities(folder: &Path, config_map: &str) -> Result<Authorities, CaConfigMapError> {
    Authorities::read(&folder.join("ca.crt"))
        .map_err(|error| CaConfigMapError { config_map: config_map.to_owned(), error })
}

/// Returns the condition reason of what a bucket answers.
pub(crate) fn bucket_reason(kind: ErrorKind) -> Reason {
    match kind {
        ErrorKind::NoBucket => Reason::BucketMissing,
        ErrorKind::Denied | ErrorKind::Credentials | ErrorKind::ClockSkew => Reason::CredentialsRefused,
        _ => Reason::ReplicaUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Authorities that are missing, or hold no certificate, name the ConfigMap and the key.
    #[test]
    fn missing_authorities_name_config_map_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let missing = authorities(folder.path(), "our-ca").expect_err("there is no file").to_string();
        assert!(missing.contains("ConfigMap our-ca") && missing.contains("key ca.crt"), "{missing}");
        std::fs::write(folder.path().join("ca.crt"), "not a certificate").unwrap();
        let wrong = authorities(folder.path(), "our-ca").expect_err("there is no certificate").to_string();
        assert!(wrong.contains("ConfigMap our-ca") && wrong.contains("no certificate"), "{wrong}");
    }
}
