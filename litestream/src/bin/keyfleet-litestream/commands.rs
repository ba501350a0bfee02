//! What each command does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyfleet_litestream::bucket::{Bucket, Patience};
use keyfleet_litestream::config::{Config, Db};
use keyfleet_litestream::database::{Database, Phase};
use keyfleet_litestream::discover::discover;
use keyfleet_litestream::keys::Identity;
use keyfleet_litestream::metrics::Metrics;
use keyfleet_litestream::restore::{self, RestoreError, Target};
use keyfleet_litestream::{keyspace, now_ms, retention, verify};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::args::{Args, Command, Restore};
use crate::output::{Failure, answer, progress, time};

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args { config, json, command } = args;
    if let Command::Keygen { output } = command {
        return keygen(&output, json);
    }
    let config = Config::read(&config).map_err(|error| Failure::Usage(format!("{}: {error}", config.display())))?;
    match command {
        Command::Replicate { once } => replicate(config, once).await,
        Command::Restore(how) => restore(one(&config, how.db.as_deref())?, &how, json).await,
        Command::Snapshots { db } => list(one(&config, db.as_deref())?, keyspace::SNAPSHOTS, json).await,
        Command::Segments { db } => list(one(&config, db.as_deref())?, keyspace::SEQUENCE, json).await,
        Command::Verify { db } => verify_all(&some(&config, db.as_deref())?, json).await,
        Command::Drill { db } => drill(&some(&config, db.as_deref())?, json).await,
        Command::Status { db } => status(&some(&config, db.as_deref())?, json).await,
        Command::Retention { db, dry_run } => sweep(&some(&config, db.as_deref())?, dry_run, json).await,
        Command::Keygen { .. } => unreachable!("handled above"),
    }
}

fn one<'c>(config: &'c Config, path: Option<&Path>) -> Result<&'c Db, Failure> {
    match (path, &config.dbs[..]) {
        (None, [db]) => Ok(db),
        (None, _) => Err(Failure::Usage("there are several databases: name one".into())),
        (Some(path), dbs) => dbs
            .iter()
            .find(|db| db.options.path == path)
            .ok_or_else(|| Failure::Usage(format!("{} is not in the configuration", path.display()))),
    }
}

fn some<'c>(config: &'c Config, path: Option<&Path>) -> Result<Vec<&'c Db>, Failure> {
    match path {
        None => Ok(config.dbs.iter().collect()),
        Some(_) => Ok(vec![one(config, path)?]),
    }
}

async fn bucket(db: &Db) -> Bucket {
    Bucket::connect(db.options.location.clone(), Patience::default()).await
}

async fn replicate(config: Config, once: bool) -> Result<(), Failure> {
    let mut databases = Vec::new();
    for db in config.dbs {
        let database = Database::open(db.options).await.map_err(Failure::other)?;
        tracing::info!(path = %database.path().display(), started = ?database.started().term, "replicating");
        databases.push(database);
    }
    if !once {
        let metrics = Metrics::default();
        tokio::select! {
            () = serve_metrics(config.addr, &metrics, &databases) => {}
            () = told_to_end() => {}
        }
    }
    for database in databases {
        let path = database.path().to_owned();
        let mut status = database.status();
        let shipping =
            status.wait_for(|status| status.durable.is_some() || matches!(status.phase, Phase::Fenced { .. }));
        let _ = tokio::time::timeout(Duration::from_secs(60), shipping).await;
        let reached = database.close(Duration::from_secs(60)).await.map_err(Failure::other)?;
        match reached {
            Some(position) => println!("{}: everything is in the bucket, at {position}", path.display()),
            None => println!("{}: nothing was ever committed", path.display()),
        }
    }
    Ok(())
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// One page, for whoever asks.
async fn serve_metrics(addr: Option<std::net::SocketAddr>, metrics: &Metrics, databases: &[Database]) {
    let Some(addr) = addr else { return std::future::pending().await };
    let listener = match tokio::net::TcpListener::bind(addr).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, %addr, "metrics cannot be served");
            return std::future::pending().await;
        }
    };
    loop {
        let Ok((mut socket, _)) = listener.accept().await else { continue };
        let mut request = [0; 1024];
        let _ = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut request)).await;
        for database in databases {
            metrics.collect(database).await;
        }
        let page = metrics.page();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            page.len()
        );
        let _ = socket.write_all(head.as_bytes()).await;
        let _ = socket.write_all(page.as_bytes()).await;
    }
}

async fn restore(db: &Db, how: &Restore, json: bool) -> Result<(), Failure> {
    let output = how.output.as_ref().unwrap_or(&db.options.path);
    if how.if_db_not_exists && output.exists() {
        tracing::info!(path = %output.display(), "the file exists: nothing to do");
        return Ok(());
    }
    let target = match (how.timestamp, how.seq) {
        (Some(time), _) => Target::Time(u64::try_from(time.as_millisecond()).unwrap_or(0)),
        (None, Some(seq)) => Target::Seq(seq),
        (None, None) => Target::Newest,
    };
    let options = restore::Options {
        target,
        floor: how.at_least,
        override_floor: how.override_floor.clone(),
        parallelism: how.parallelism,
        replace: how.replace,
        pin: true,
        progress: progress("restoring"),
        begin_at_most: None,
    };
    let replica = &db.options.replica;
    match restore::restore(&bucket(db).await, replica, &db.options.keys, output, &options).await {
        Ok(restored) => {
            answer(json, &restored, |restored| {
                format!(
                    "restored {} to {} (commit {}, {}): {} objects, {} bytes read",
                    output.display(),
                    restored.position,
                    restored.commit,
                    time(restored.time_ms),
                    restored.objects,
                    restored.bytes
                )
            });
            Ok(())
        }
        Err(RestoreError::NoReplica) if how.if_replica_exists => {
            tracing::info!("there is provably no replica: nothing to restore");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn list(db: &Db, folder: &str, json: bool) -> Result<(), Failure> {
    let listed = verify::list(&bucket(db).await, folder).await.map_err(Failure::other)?;
    answer(json, &listed, |listed| {
        let mut lines = vec![format!(
            "{:>8} {:>6} {:>10} {:>21} {:>10}  {:30} kind",
            "seq", "term", "commits", "", "bytes", "time"
        )];
        for object in listed {
            lines.push(format!(
                "{:>8} {:>6} {:>10} {:>21} {:>10}  {:30} {}",
                object.seq.0,
                object.term.0,
                object.first_commit.0,
                format!("to {}", object.last_commit),
                object.size,
                time(object.time_ms),
                object.kind
            ));
        }
        lines.join("\n")
    });
    Ok(())
}

async fn verify_all(dbs: &[&Db], json: bool) -> Result<(), Failure> {
    let mut broken = 0;
    for db in dbs {
        let bar = progress("verifying");
        let verified = verify::verify(&bucket(db).await, &db.options.replica, &db.options.keys, 16, bar.as_ref())
            .await
            .map_err(Failure::other)?;
        broken += verified.findings.iter().filter(|finding| !finding.contains("harmless")).count();
        answer(json, &verified, |verified| {
            let mut lines: Vec<String> = verified.findings.iter().map(|finding| format!("  {finding}")).collect();
            let end = verified.position.map_or_else(|| "no replica".to_owned(), |position| position.to_string());
            lines.insert(
                0,
                format!(
                    "{}: {} objects whole, {} bytes, ends at {end}",
                    db.options.location, verified.objects, verified.bytes
                ),
            );
            lines.join("\n")
        });
    }
    if broken == 0 { Ok(()) } else { Err(Failure::Broken(format!("{broken} findings"))) }
}

#[derive(Serialize)]
struct Drilled {
    location: String,
    newest: restore::Restored,
    other_route: Option<restore::Restored>,
    tables: Vec<restore::TableSummary>,
}

/// Restores from the newest snapshot and from the oldest that leads to the same state, and compares.
async fn drill(dbs: &[&Db], json: bool) -> Result<(), Failure> {
    for db in dbs {
        let bucket = bucket(db).await;
        let drilled = restore::drill(&bucket, &db.options.replica, &db.options.keys, progress("drilling")).await?;
        let drilled = Drilled {
            location: db.options.location.to_string(),
            newest: drilled.newest,
            other_route: drilled.other_route,
            tables: drilled.tables,
        };
        answer(json, &drilled, |drilled| {
            let entries: u64 = drilled.tables.iter().map(|table| table.entries).sum();
            let route = match &drilled.other_route {
                Some(other) => format!("the same from {}", other.snapshot),
                None => "there is one route only".to_owned(),
            };
            format!(
                "{}: restored to {}, {} tables with {entries} entries; {route}",
                drilled.location,
                drilled.newest.position,
                drilled.tables.len()
            )
        });
    }
    Ok(())
}

#[derive(Serialize)]
struct Status {
    path: PathBuf,
    location: String,
    head: Option<keyfleet_litestream::Position>,
    last_commit: Option<u64>,
    age_ms: Option<u64>,
    snapshots: usize,
    boundary: Option<u64>,
    local: Option<keyfleet_litestream::Position>,
}

async fn status(dbs: &[&Db], json: bool) -> Result<(), Failure> {
    for db in dbs {
        let found = discover(&bucket(db).await, &db.options.replica, now_ms).await.map_err(Failure::other)?;
        let status = Status {
            path: db.options.path.clone(),
            location: db.options.location.to_string(),
            head: found.head.map(|head| head.position),
            last_commit: found.head.map(|head| head.last_commit.0),
            age_ms: found.head.map(|head| now_ms().saturating_sub(head.time_ms)),
            snapshots: found.snapshots.len(),
            boundary: found.boundary.map(|boundary| boundary.0),
            local: keyfleet_litestream::meta::Note::read(&db.options.path).position,
        };
        answer(json, &status, |status| match (&status.head, status.age_ms) {
            (Some(head), Some(age_ms)) => format!(
                "{}: {head}, newest commit {} s ago, {} snapshots; this machine last knew {}",
                status.location,
                age_ms / 1000,
                status.snapshots,
                status.local.map_or_else(|| "nothing".into(), |position| position.to_string())
            ),
            _ => format!("{}: there is no replica", status.location),
        });
    }
    Ok(())
}

async fn sweep(dbs: &[&Db], dry_run: bool, json: bool) -> Result<(), Failure> {
    for db in dbs {
        let swept = retention::run(&bucket(db).await, &db.rules, now_ms(), dry_run).await.map_err(Failure::other)?;
        answer(json, &swept, |swept| {
            let would = if dry_run { "would delete" } else { "deleted" };
            let boundary = swept.boundary.map_or_else(|| "none".into(), |boundary| boundary.to_string());
            format!(
                "{}: {would} {} objects; boundary {boundary}; {} restore points kept",
                db.options.location,
                swept.deleted.len(),
                swept.kept.len()
            )
        });
    }
    Ok(())
}

#[derive(Serialize)]
struct Made {
    recipient: String,
}

fn keygen(output: &Path, json: bool) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    let identity = Identity::generate(&mut rng);
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(output).map_err(Failure::other)?;
    writeln!(file, "{}", identity.to_hex().as_str()).and_then(|()| file.sync_all()).map_err(Failure::other)?;
    let made = Made { recipient: identity.recipient().to_hex() };
    answer(json, &made, |made| format!("recipient: {}", made.recipient));
    Ok(())
}
