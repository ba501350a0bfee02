//! `litestream.yml`, in Litestream's words where the meaning is the same.
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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::authorities::Authorities;
use crate::bucket::{Location, StaticCredentials};
use crate::database::Options;
use crate::format::header::ReplicaName;
use crate::format::seal::ObjectError;
use crate::keys::{Identity, KeyEncryptionKey, KeyError, KeyRing, Recipient};
use crate::retention::{Level, Rules};

/// A whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// Address of the metrics page.
    pub addr: Option<std::net::SocketAddr>,
    /// The databases.
    pub dbs: Vec<Db>,
}

/// One database.
#[derive(Clone, Debug)]
pub struct Db {
    /// How to open it.
    pub options: Options,
    /// What its retention keeps.
    pub rules: Rules,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, |name| std::env::var(name).ok())
    }

    /// Checks a text. `env` looks up the variables that it names as `${NAME}`.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    addr: Option<std::net::SocketAddr>,
    key_encryption: Option<Vec<KeySource>>,
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    identity_paths: Vec<PathBuf>,
    #[serde(default)]
    snapshot: Snapshot,
    retention: Option<Retention>,
    dbs: Vec<DbFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeySource {
    id: String,
    key: Option<Secret>,
    key_path: Option<PathBuf>,
}

/// A text that is wiped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Snapshot {
    interval: Option<Span>,
    segments: Option<u64>,
    merge_segments: Option<u64>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Retention {
    window: Option<Span>,
    levels: Option<Vec<LevelFile>>,
    keep_at_least: Option<usize>,
    grace: Option<Span>,
    pin_expiry: Option<Span>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelFile {
    every: Span,
    keep: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DbFile {
    path: PathBuf,
    name: Option<String>,
    snapshot: Option<Snapshot>,
    retention: Option<Retention>,
    queue_bytes: Option<usize>,
    idle_grace: Option<Span>,
    replica: ReplicaFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ReplicaFile {
    url: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    bucket: Option<String>,
    path: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    force_path_style: Option<bool>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    ca_bundle: Option<PathBuf>,
    sync_interval: Option<Span>,
}

/// A length of time, as in `90s` or `1h30m`.
#[derive(Clone, Copy)]
struct Span(Duration);

impl Span {
    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        span.map(Self).ok_or_else(|| D::Error::custom(format!("`{text}` is not a length of time such as 90s or 1h30m")))
    }
}

impl File {
    fn check(self, env: &impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let mut keys = KeyRing::default();
        for source in self.key_encryption.into_iter().flatten() {
            let text = match (&source.key, &source.key_path) {
                (Some(key), None) => Zeroizing::new(key.0.clone()),
                (None, Some(path)) => read_secret(path)?,
                _ => return Err(ConfigError::KeySource(source.id)),
            };
            keys.key_encryption_keys.push(KeyEncryptionKey::from_hex(source.id, &text)?);
        }
        for recipient in &self.recipients {
            keys.recipients.push(Recipient::from_hex(recipient)?);
        }
        for path in &self.identity_paths {
            keys.identities.push(Identity::from_hex(&read_secret(path)?)?);
        }
        if keys.key_encryption_keys.is_empty() && keys.recipients.is_empty() && keys.identities.is_empty() {
            return Err(ConfigError::NoKey);
        }
        if self.dbs.is_empty() {
            return Err(ConfigError::NoDb);
        }
        let keys = Arc::new(keys);
        let mut dbs: Vec<Db> = Vec::new();
        for db in self.dbs {
            let db = db.check(&keys, &self.snapshot, self.retention.as_ref(), env)?;
            for other in &dbs {
                if other.options.path == db.options.path {
                    return Err(ConfigError::Twice(db.options.path.display().to_string()));
                }
                if other.options.location == db.options.location {
                    return Err(ConfigError::Twice(db.options.location.to_string()));
                }
            }
            dbs.push(db);
        }
        Ok(Config { addr: self.addr, dbs })
    }
}

impl DbFile {
    fn check(
        self,
        keys: &Arc<KeyRing>,
        snapshot: &Snapshot,
        retention: Option<&Retention>,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Db, ConfigError> {
        let at = self.path.display().to_string();
        let sync_interval = self.replica.sync_interval;
        let location = self.replica.location(&at, env)?;
        // Part of every object: moving a replica to another prefix needs its old name.
        let name = ReplicaName::new(self.name.unwrap_or_else(|| format!("{}/{}", location.bucket, location.prefix)))?;
        let mut options = Options::new(&self.path, name, location, Arc::clone(keys));
        let own = self.snapshot.unwrap_or_default();
        if let Some(interval) = own.interval.or(snapshot.interval) {
            options.snapshot_interval = interval.0;
        }
        if let Some(segments) = own.segments.or(snapshot.segments) {
            options.snapshot_segments = segments.max(1);
        }
        if let Some(segments) = own.merge_segments.or(snapshot.merge_segments) {
            options.merge_segments = segments;
        }
        if let Some(interval) = sync_interval {
            options.sync_interval = interval.0;
        }
        if let Some(bytes) = self.queue_bytes {
            options.queue_bytes = bytes;
        }
        if let Some(grace) = self.idle_grace {
            options.idle_grace = grace.0;
        }
        let rules = self.retention.as_ref().or(retention).map_or_else(Rules::default, Retention::rules);
        if u128::from(rules.grace_ms) <= options.idle_grace.as_millis() {
            return Err(ConfigError::Grace { at, grace_ms: rules.grace_ms, idle: options.idle_grace });
        }
        Ok(Db { options, rules })
    }
}

impl Retention {
    fn rules(&self) -> Rules {
        let default = Rules::default();
        Rules {
            window_ms: self.window.map_or(default.window_ms, Span::millis),
            levels: self.levels.as_ref().map_or(default.levels, |levels| {
                levels.iter().map(|level| Level { every_ms: level.every.millis(), keep: level.keep }).collect()
            }),
            keep_at_least: self.keep_at_least.unwrap_or(default.keep_at_least).max(1),
            grace_ms: self.grace.map_or(default.grace_ms, Span::millis),
            pin_expiry_ms: self.pin_expiry.map_or(default.pin_expiry_ms, Span::millis),
        }
    }
}

impl ReplicaFile {
    fn location(self, at: &str, env: &impl Fn(&str) -> Option<String>) -> Result<Location, ConfigError> {
        let wrong = |what: &str| ConfigError::Replica { at: at.to_owned(), what: what.to_owned() };
        if let Some(kind) = self.kind.as_deref()
            && kind != "s3"
        {
            return Err(wrong(&format!("type `{kind}` is not supported; s3 is")));
        }
        let (bucket, path) = match (self.url, self.bucket, self.path) {
            (Some(url), None, None) => {
                let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("url must be s3://BUCKET/PREFIX"))?;
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                (bucket.to_owned(), path.to_owned())
            }
            (None, Some(bucket), path) => (bucket, path.unwrap_or_default()),
            (None, None, _) => return Err(wrong("name a url, or a bucket and a path")),
            (Some(_), ..) => return Err(wrong("name a url, or a bucket and a path, not both")),
        };
        let prefix = path.trim_matches('/').to_owned();
        if bucket.is_empty() || prefix.is_empty() {
            return Err(wrong("both bucket and path must be there: one replica has one folder of its own"));
        }
        let credentials = match (self.access_key_id, self.secret_access_key) {
            (None, None) => None,
            (Some(access_key_id), Some(secret)) => {
                Some(StaticCredentials { access_key_id, secret_access_key: secret.0.clone() })
            }
            _ => return Err(wrong("access-key-id and secret-access-key go together")),
        };
        // As the AWS tools call it, key and variable.
        let bundle = self.ca_bundle.or_else(|| env("AWS_CA_BUNDLE").map(PathBuf::from));
        let authorities = bundle.as_deref().map(Authorities::read).transpose();
        let authorities = authorities.map_err(|error| wrong(&format!("ca-bundle: {error}")))?;
        Ok(Location {
            bucket,
            prefix,
            region: self.region,
            endpoint: self.endpoint,
            force_path_style: self.force_path_style,
            credentials,
            authorities,
        })
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}

/// Replaces `${NAME}` in every text. A name that is not set is an error: an empty key would be a bad surprise.
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

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What.
        error: std::io::Error,
    },
    /// Not the shape that is expected; unknown keys included.
    #[error("{0}")]
    Yaml(serde_yaml::Error),
    /// A variable that is not set, or is not closed.
    #[error("environment variable `${{{0}}}` is not set or not closed")]
    Variable(String),
    /// A key without a source, or with two.
    #[error("key `{0}` must have either `key` or `key-path`")]
    KeySource(String),
    /// A key that is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A name that does not fit.
    #[error(transparent)]
    Name(#[from] ObjectError),
    /// No key at all.
    #[error(
        "no key: give `key-encryption` or `recipients` (to write), or `identity-paths` (to restore); a replica is never stored in clear"
    )]
    NoKey,
    /// No database.
    #[error("`dbs` is empty")]
    NoDb,
    /// The same file or the same place twice.
    #[error("`{0}` is there twice: a database has exactly one replica, a replica exactly one database")]
    Twice(String),
    /// A replica that cannot be.
    #[error("replica of {at}: {what}")]
    Replica {
        /// Of which database.
        at: String,
        /// What.
        what: String,
    },
    /// Graces in the wrong order.
    #[error("{at}: retention's grace ({grace_ms} ms) must be longer than the writer's idle-grace ({idle:?})")]
    Grace {
        /// Of which database.
        at: String,
        /// Retention's.
        grace_ms: u64,
        /// The writer's.
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
            "snapshot: {interval: 30m}\nretention: {window: 168h, levels: [{every: 24h, keep: 30}]}\ndbs:\n\
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
    fn unknown_keys_are_an_error_that_names_them_and_their_place() {
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
        assert!(refused(&format!("{one}, {{path: /c, replica: {{url: s3://b/p}}}}]")).contains("twice"));
        assert!(refused("dbs: [{path: /a, replica: {url: gs://b/p}}]").contains("s3://"));
        assert!(refused("dbs: [{path: /a, replica: {url: s3://b}}]").contains("folder"));
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
