//! Shape of `litestream.yml`, and the checks that turn it into a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Config, ConfigError, Db};
use crate::authorities::Authorities;
use crate::bucket::{Location, StaticCredentials};
use crate::database::Options;
use crate::format::header::ReplicaName;
use crate::keys::{Identity, KeyEncryptionKey, KeyRing, Recipient};
use crate::retention::{Level, Rules};

/// Content of `litestream.yml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
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

/// Secret text, wiped from memory when it is dropped.
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

/// Length of time, as in `90s`, `1h30m` or `7d`.
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
        // Days as Litestream's users write them.
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        let days = days.and_then(|days: u64| Some(Duration::from_secs(days.checked_mul(86_400)?)));
        let span = || text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        days.or_else(span)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a length of time such as 90s, 1h30m or 7d")))
    }
}

impl File {
    /// Checks all that the shape alone does not. `env` looks up variables.
    pub(super) fn check(self, env: &impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let mut keys = KeyRing::default();
        for source in self.key_encryption.into_iter().flatten() {
            let text = match (&source.key, &source.key_path) {
                (Some(key), None) => Zeroizing::new(key.0.clone()),
                (None, Some(path)) => read_secret(path)?,
                _ => return Err(ConfigError::KeySource(source.id)),
            };
            if keys.key_encryption_keys.iter().any(|key| key.id() == source.id) {
                return Err(ConfigError::KeyTwice(source.id));
            }
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
                if one_file(&other.options.path) == one_file(&db.options.path) {
                    return Err(ConfigError::Twice(db.options.path.display().to_string()));
                }
                let (one, two) = (&other.options.location, &db.options.location);
                if one.overlaps(two) {
                    return Err(ConfigError::Overlap(one.to_string(), two.to_string()));
                }
                if other.options.replica == db.options.replica {
                    return Err(ConfigError::Twice(db.options.replica.to_string()));
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
        let location = Location {
            bucket,
            prefix,
            region: self.region,
            endpoint: self.endpoint,
            force_path_style: self.force_path_style,
            credentials,
            authorities,
        };
        location.check().map_err(|error| wrong(&error.to_string()))?;
        Ok(location)
    }
}

/// Returns the one path of a file that several name.
fn one_file(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}
