//! The retention job's configuration: one strict YAML file. The operator renders it, `keyfleet-node retain` parses it, and
//! this is the one type of both. It names no key: who deletes can open nothing.

use serde::{Deserialize, Serialize};

use crate::cluster::storage::S3;
use crate::config_file::{self, ConfigFileError, LogFormat, Versioned};
use crate::values::ClusterId;

/// The format that this release writes and reads.
pub const FORMAT: u32 = 1;
/// The file's name in its ConfigMap.
pub const FILE: &str = "retention.yaml";

/// The file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionConfig {
    /// The format: [`FORMAT`].
    pub format: u32,
    /// The cluster whose nodes' replicas are swept; nothing outside of its folder is looked at.
    pub cluster_id: ClusterId,
    /// The bucket. Its `credentialsSecret` is the nodes' and not used here.
    pub s3: S3,
    /// Hours that an object stays after something newer has replaced it, at least 1.
    pub grace_hours: u32,
    /// Filter of log lines, in the syntax of `tracing`.
    pub log: String,
    /// Format of log lines.
    #[serde(default)]
    pub log_format: LogFormat,
}

impl Versioned for RetentionConfig {
    fn format(&self) -> u32 {
        self.format
    }
}

impl RetentionConfig {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`ConfigFileError`] names the key that is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigFileError> {
        let config: Self = config_file::parse(text, FORMAT)?;
        if config.grace_hours == 0 {
            let what = "must be at least 1: a writer that was idle trusts objects for minutes before it looks again";
            return Err(ConfigFileError::Value { at: "graceHours", what });
        }
        Ok(config)
    }

    /// Writes the file's text: [`RetentionConfig::parse`] gives the configuration back.
    #[must_use]
    pub fn render(&self) -> String {
        config_file::render(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
format: 1
clusterId: 000102030405060708090a0b0c0d0e0f
s3: {bucket: fleets, prefix: prod, region: us-east-1, forcePathStyle: true}
graceHours: 72
log: info
";

    #[test]
    fn a_configuration_survives_being_written_and_read() {
        let config = RetentionConfig::parse(GOOD).unwrap();
        assert_eq!(RetentionConfig::parse(&config.render()).unwrap(), config);
    }

    #[test]
    fn a_fault_says_where_and_what_to_do() {
        let cases = [
            (GOOD.replace("graceHours: 72", "graceHours: 0"), "graceHours: must be at least 1"),
            (GOOD.replace("format: 1", "format: 7"), "format 7 is not known"),
            (format!("{GOOD}nodes: 4\n"), "unknown field `nodes`"),
            (GOOD.replace("bucket: fleets, ", ""), "missing field `bucket`"),
        ];
        for (text, says) in cases {
            let error = RetentionConfig::parse(&text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says), "expected `{says}`, got `{error}`");
        }
    }
}
