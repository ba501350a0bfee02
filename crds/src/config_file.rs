//! Common parts of the configuration files [`node_config`](crate::node_config) and [`retention_config`](crate::retention_config):
//! strict YAML, of one format that the file names.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Problem of a configuration file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFileError {
    /// Not the YAML that is wanted: the message names line and key, and what is allowed there.
    #[error("the configuration: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// Another release wrote it.
    #[error(
        "the configuration: format {found} is not known to this release, which reads {known}: run the image of the release that \
        wrote it"
    )]
    Format {
        /// Format of the file.
        found: u32,
        /// Format that this release reads.
        known: u32,
    },
    /// A value makes no sense.
    #[error("the configuration: {at}: {what}")]
    Value {
        /// The key.
        at: &'static str,
        /// Problem, and the right value.
        what: &'static str,
    },
}

/// A file that names its format.
pub(crate) trait Versioned: Serialize + DeserializeOwned {
    fn format(&self) -> u32;
}

/// Reads a file of the format `known`.
///
/// # Errors
/// When the text is not the YAML that is wanted, or of another format.
pub(crate) fn parse<T: Versioned>(text: &str, known: u32) -> Result<T, ConfigFileError> {
    let config: T = serde_yaml::from_str(text)?;
    let found = config.format();
    if found == known { Ok(config) } else { Err(ConfigFileError::Format { found, known }) }
}

/// Writes the text that [`parse`] reads.
pub(crate) fn render<T: Versioned>(config: &T) -> String {
    serde_yaml::to_string(config).expect("a configuration is plain data")
}
