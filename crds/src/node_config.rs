//! A node's configuration: one strict YAML file. The operator renders it, the node parses it, and this is the one type of both.
//!
//! Secrets are never in it, only their places. What a node follows without a restart (access rules, pins, plans) is not in
//! it either: nodes read that from the API server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::{KeyEncryption, Replication};
use crate::config_file::{self, ConfigFileError, LogFormat, Versioned};
use crate::values::ClusterId;

/// The format that this release writes and reads.
pub const FORMAT: u32 = 1;
/// The file's name in its ConfigMap.
pub const FILE: &str = "node.yaml";
/// Where configuration is mounted.
pub const CONFIG_FOLDER: &str = "/etc/keyfleet";
/// Where the platform's certificate is mounted.
pub const TLS_FOLDER: &str = "/var/run/keyfleet/tls";
/// Where the node's volume is mounted.
pub const STATE_FOLDER: &str = "/var/lib/keyfleet";
/// Key-encryption keys of Secrets lie in `<this>/<id>/key`.
pub const KEK_FOLDER: &str = "/var/run/keyfleet/kek";
/// The authorities of the bucket's server lie in `<this>/ca.crt`.
pub const S3_CA_FOLDER: &str = "/var/run/keyfleet/s3-ca";
/// The authorities of an issuer lie in `<this>/<name>/ca.crt`.
pub const ISSUERS_FOLDER: &str = "/var/run/keyfleet/issuers";

/// The file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The format: [`FORMAT`].
    pub format: u32,
    /// The `KmsCluster`'s name.
    pub cluster: String,
    /// The cluster's namespace.
    pub namespace: String,
    /// The cluster id.
    pub cluster_id: ClusterId,
    /// The node's index, at least 1.
    pub index: u32,
    /// The node's host name.
    pub host: String,
    /// The subject of the operator's tokens, like `system:serviceaccount:keyfleet-system:keyfleet-operator`.
    pub operator: String,
    /// The folder of everything that the node writes. Absolute.
    pub state_folder: PathBuf,
    /// The port of peers and operator.
    pub round_port: u16,
    /// The port of callers.
    pub kms_port: u16,
    /// The port of `/health`, `/ready`, `/status`, `/metrics`.
    pub http_port: u16,
    /// Where the key-encryption keys come from.
    pub key_encryption: KeyEncryption,
    /// Where the state file is replicated; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// A folder with `tls.crt` and `tls.key` for the port of callers; absent: the node's own certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_certificate_folder: Option<PathBuf>,
    /// Filter of log lines, in the syntax of `tracing`.
    pub log: String,
    /// Format of log lines.
    #[serde(default)]
    pub log_format: LogFormat,
    /// A folder in the place of the seal Secret: for development outside Kubernetes. The operator never sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_home: Option<PathBuf>,
}

impl Versioned for NodeConfig {
    fn format(&self) -> u32 {
        self.format
    }
}

impl NodeConfig {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`ConfigFileError`] names the key that is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigFileError> {
        let config: Self = config_file::parse(text, FORMAT)?;
        if config.index == 0 {
            let what = "must be at least 1; a share at 0 would be the key itself";
            return Err(ConfigFileError::Value { at: "index", what });
        }
        if !config.state_folder.is_absolute() {
            let what = "must be an absolute path, or a restart elsewhere would begin with nothing";
            return Err(ConfigFileError::Value { at: "stateFolder", what });
        }
        Ok(config)
    }

    /// Writes the file's text: [`NodeConfig::parse`] gives the configuration back.
    #[must_use]
    pub fn render(&self) -> String {
        config_file::render(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../tests/data/node.yaml");

    #[test]
    fn a_configuration_survives_being_written_and_read() {
        let config = NodeConfig::parse(GOOD).unwrap();
        assert_eq!(NodeConfig::parse(&config.render()).unwrap(), config);
    }

    #[test]
    fn a_fault_says_where_and_what_to_do() {
        let cases = [
            (GOOD.replace("index: 2", "index: 0"), "index: must be at least 1"),
            (GOOD.replace("index: 2", "index: two"), "index"),
            (GOOD.replace("/var/lib", "var/lib"), "stateFolder: must be an absolute path"),
            (GOOD.replace("000102", "00010"), "32 lower-case hexadecimal digits"),
            (GOOD.replace("format: 1", "format: 2"), "format 2 is not known to this release"),
            (format!("{GOOD}retention: 2\n"), "unknown field `retention`"),
            (GOOD.replace("{name: KEK}", "{name: KEK, file: /x}"), "unknown field `file`"),
            (GOOD.replace("index: 2\n", ""), "missing field `index`"),
        ];
        for (text, says) in cases {
            let error = NodeConfig::parse(&text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says), "expected `{says}`, got `{error}`");
        }
    }
}
