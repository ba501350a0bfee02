//! `litestream.yml`, in Litestream's words where the meaning is the same. `file` has its shape, key by key.
//!
//! Parsed strictly. A key that is silently ignored has left real replicas unencrypted and with a day of
//! retention; here it is an error that names it.
//!
//! ```yaml
//! key-encryption: [{id: prod-2026, key-path: /etc/keyfleet/kek.hex}]
//! dbs:
//!   - path: /data/state.redb
//!     replica: {url: "s3://bucket/cluster/node-1/state", region: eu-central-1}
//! ```

mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::Options;
use crate::format::error::ObjectError;
use crate::keys::KeyError;
use crate::retention::Rules;

use file::File;

/// Configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// Address to serve metrics on; `None` to serve none.
    pub addr: Option<std::net::SocketAddr>,
    /// Databases to replicate.
    pub dbs: Vec<Db>,
}

/// Database of a configuration.
#[derive(Clone, Debug)]
pub struct Db {
    /// Options to open it with.
    pub options: Options,
    /// Rules of its retention.
    pub rules: Rules,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and what is wrong there.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, |name| std::env::var(name).ok())
    }

    /// Reads and checks a text. `env` looks up the variables that the text names as `${NAME}`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(ConfigError::Yaml)?;
        expand(&mut value, &env)?;
        let file: File = serde_yaml::from_value(value).map_err(|error| {
            // The text knows lines, the expanded value does not.
            ConfigError::Yaml(serde_yaml::from_str::<File>(text).err().unwrap_or(error))
        })?;
        file.check(&env)
    }
}

/// Replaces `${NAME}` in every string. A name that is not set is an error: an empty key would be a bad surprise.
fn expand(value: &mut serde_yaml::Value, env: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    match value {
        serde_yaml::Value::String(text) => {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once("${") {
                let (name, after) = after.split_once('}').ok_or_else(|| ConfigError::Variable(after.to_owned()))?;
                out.push_str(before);
                out.push_str(&env(name).ok_or_else(|| ConfigError::Variable(name.to_owned()))?);
                rest = after;
            }
            out.push_str(rest);
            *text = out;
            Ok(())
        }
        serde_yaml::Value::Sequence(items) => items.iter_mut().try_for_each(|item| expand(item, env)),
        serde_yaml::Value::Mapping(map) => map.iter_mut().try_for_each(|(_, item)| expand(item, env)),
        _ => Ok(()),
    }
}

/// Error of a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Unreadable file.
    #[error("{}: {error}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the file system.
        error: std::io::Error,
    },
    /// Text that is not YAML of the expected shape. An unknown key is an error, too.
    #[error("{0}")]
    Yaml(serde_yaml::Error),
    /// Variable that is not set, or whose brace is not closed.
    #[error("environment variable `${{{0}}}` is not set or not closed")]
    Variable(String),
    /// Key without a source, or with two.
    #[error("key `{0}` must have either `key` or `key-path`")]
    KeySource(String),
    /// Malformed key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Name of a replica that does not fit the format.
    #[error(transparent)]
    Name(#[from] ObjectError),
    /// Configuration without any key.
    #[error(
        "no key: give `key-encryption` or `recipients` (to write), or `identity-paths` (to restore); a replica is never stored in clear"
    )]
    NoKey,
    /// Configuration without any database.
    #[error("`dbs` is empty")]
    NoDb,
    /// File or name of a replica that two databases have.
    #[error("`{0}` is there twice: a database has exactly one replica, a replica exactly one database")]
    Twice(String),
    /// Two keys of one name: what one of them wraps, the other would be asked to open.
    #[error("key `{0}` is there twice: each key has a name of its own")]
    KeyTwice(String),
    /// Two replicas in one folder, or one below the other. Servers are not told apart by their addresses: one has many.
    #[error("`{0}` and `{1}` overlap: each replica has a folder of its own, whatever the server")]
    Overlap(String, String),
    /// Replica whose location is incomplete or contradicts itself.
    #[error("replica of {at}: {what}")]
    Replica {
        /// Path of the database.
        at: String,
        /// Error, for people.
        what: String,
    },
    /// Retention's grace that is not longer than the writer's idle grace.
    #[error("{at}: retention's grace ({grace_ms} ms) must be longer than the writer's idle-grace ({idle:?})")]
    Grace {
        /// Path of the database.
        at: String,
        /// Grace of retention, in milliseconds.
        grace_ms: u64,
        /// Idle grace of the writer.
        idle: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "key-encryption: [{id: k, key: \"${KEK}\"}]\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{KEY}{text}"), |name| (name == "KEK").then(|| "ab".repeat(32)))
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err("was accepted").to_string()
    }

    #[test]
    fn a_configuration_in_litestreams_words_is_understood() {
        let config = parse(
            "snapshot: {interval: 30m}\nretention: {window: 7d, levels: [{every: 24h, keep: 30}]}\ndbs:\n\
             - path: /data/a.redb\n  replica: {url: s3://b/p/a, region: r, sync-interval: 10s}\n\
             - path: /data/b.redb\n  snapshot: {interval: 5m}\n  replica: {type: s3, bucket: b, path: /p/b/, \
             endpoint: http://x, access-key-id: i, secret-access-key: s}\n",
        )
        .unwrap();
        let [a, b] = &config.dbs[..] else { panic!("two databases") };
        assert_eq!(a.options.location.to_string(), "s3://b/p/a");
        assert_eq!(a.options.sync_interval, Duration::from_secs(10));
        assert_eq!(
            (a.options.snapshot_interval, b.options.snapshot_interval),
            (Duration::from_secs(1800), Duration::from_secs(300))
        );
        assert_eq!((a.rules.window_ms, a.rules.levels[0].keep), (168 * 3_600_000, 30));
        assert_eq!(b.options.location.prefix, "p/b");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_its_place() {
        let nested = refused("dbs:\n- path: /a\n  replica:\n    url: s3://b/p\n    retention: 168h\n");
        assert!(nested.contains("retention") && nested.contains("line"), "{nested}");
        let top = refused("encryption-key: x\ndbs: []\n");
        assert!(top.contains("encryption-key"), "{top}");
        let many = refused("dbs:\n- path: /a\n  replicas: [{url: s3://b/p}]\n");
        assert!(many.contains("replica"), "{many}");
    }

    #[test]
    fn what_would_surprise_later_is_refused_now() {
        let one = "dbs: [{path: /a, replica: {url: s3://b/p}}";
        assert!(refused(&format!("{one}, {{path: /a, replica: {{url: s3://b/q}}}}]")).contains("twice"));

        for place in ["s3://b/p", "s3://b/p/below", "s3://b/p, region: r", "s3://b/p, endpoint: http://x"] {
            let text = refused(&format!("{one}, {{path: /c, replica: {{url: {place}}}}}]"));
            assert!(text.contains("overlap"), "{place}: {text}");
        }
        assert!(parse(&format!("{one}, {{path: /c, replica: {{url: s3://b/p2}}}}]")).is_ok(), "p is no folder of p2");
        let name = "{path: /c, name: b/p, replica: {url: s3://b/q}}";
        assert!(refused(&format!("{one}, {name}]")).contains("twice"));
        let keys =
            format!("key-encryption: [{{id: k, key: \"{0}\"}}, {{id: k, key: \"{0}\"}}]\n{one}]", "ab".repeat(32));
        let keys = Config::parse(&keys, |_| None).unwrap_err();
        assert!(matches!(keys, ConfigError::KeyTwice(_)), "{keys}");
        assert!(refused("dbs: [{path: /a, replica: {url: gs://b/p}}]").contains("s3://"));
        assert!(refused("dbs: [{path: /a, replica: {url: s3://b}}]").contains("folder"));
        for prefix in ["a//b", "a/../b", "a/./b", ".."] {
            let text = refused(&format!("dbs: [{{path: /a, replica: {{url: s3://b/{prefix}}}}}]"));
            assert!(text.contains("prefix"), "{prefix}: {text}");
        }
        assert!(refused("dbs: [{path: /a, replica: {url: s3://b/p, access-key-id: x}}]").contains("together"));
        assert!(refused("dbs: [{path: /a, replica: {url: \"s3://b/${NOPE}\"}}]").contains("NOPE"));
        let authorities = refused("dbs: [{path: /a, replica: {url: s3://b/p, ca-bundle: /nowhere.pem}}]");
        assert!(authorities.contains("ca-bundle") && authorities.contains("/nowhere.pem"), "{authorities}");
        assert!(refused("retention: {grace: 10s}\ndbs: [{path: /a, replica: {url: s3://b/p}}]").contains("grace"));
        assert!(refused("dbs: [{path: /a, replica: {url: s3://b/p, sync-interval: 10}}]").contains("length of time"));
        let bare = Config::parse("dbs: [{path: /a, replica: {url: s3://b/p}}]", |_| None).unwrap_err();
        assert!(matches!(bare, ConfigError::NoKey), "a replica in clear was accepted");
    }
}
