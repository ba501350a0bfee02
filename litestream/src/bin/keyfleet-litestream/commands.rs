//! What each command does.

use std::path::Path;
use std::time::Duration;

use keyfleet_litestream::bucket::{Bucket, RetryPolicy};
use keyfleet_litestream::clock::now_ms;
use keyfleet_litestream::config::{Config, Db};
use keyfleet_litestream::database::{Database, Phase};
use keyfleet_litestream::discover::discover;
use keyfleet_litestream::drill::{self, Drilled, Local};
use keyfleet_litestream::keys::Identity;
use keyfleet_litestream::metrics::Metrics;
use keyfleet_litestream::restore::{self, RestoreError, Target};
use keyfleet_litestream::{layout, retention, verify};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::args::{Args, Command, Restore};
use crate::output::{Answers, CommandError, answer, progress, time};

pub(crate) async fn run(args: Args) -> Result<(), CommandError> {
    let Args { config, json, command } = args;
    if let Command::Keygen { output } = command {
        return keygen(&output, json);
    }
    let config =
        Config::read(&config).map_err(|error| CommandError::Usage(format!("{}: {error}", config.display())))?;
    match command {
        Command::Replicate { once } => replicate(config, once, json).await,
        Command::Restore(how) => restore(one(&config, how.db.as_deref())?, &how, json).await,
        Command::Snapshots { db } => list(&some(&config, db.as_deref())?, layout::SNAPSHOTS, json).await,
        Command::Segments { db } => list(&some(&config, db.as_deref())?, layout::SEQUENCE, json).await,
        Command::Verify { db } => verify_all(&some(&config, db.as_deref())?, json).await,
        Command::Drill { db } => drill_all(&some(&config, db.as_deref())?, json).await,
        Command::Status { db } => status(&some(&config, db.as_deref())?, json).await,
        Command::Retention { db, dry_run } => sweep(&some(&config, db.as_deref())?, dry_run, json).await,
        Command::Keygen { .. } => unreachable!("handled above"),
    }
}

fn one<'c>(config: &'c Config, path: Option<&Path>) -> Result<&'c Db, CommandError> {
    match (path, &config.dbs[..]) {
        (None, [db]) => Ok(db),
        (None, _) => Err(CommandError::Usage("there are several databases: name one".into())),
        (Some(path), dbs) => dbs
            .iter()
            .find(|db| db.options.path == path)
            .ok_or_else(|| CommandError::Usage(format!("{} is not in the configuration", path.display()))),
    }
}

fn some<'c>(config: &'c Config, path: Option<&Path>) -> Result<Vec<&'c Db>, CommandError> {
    match path {
        None => Ok(config.dbs.iter().collect()),
        Some(_) => Ok(vec![one(config, path)?]),
    }
}

/// Asks about each database and says the answers.
async fn each<T: Serialize>(
    dbs: &[&Db],
    json: bool,
    text: impl Fn(&Db, &T) -> String,
    ask: impl AsyncFn(&Db) -> Result<T, CommandError>,
) -> Result<Vec<T>, CommandError> {
    let (mut answers, mut all) = (Answers::new(json), Vec::new());
    for db in dbs {
        let location = db.options.location.to_string();
        all.extend(answers.add(&db.options.path, &location, ask(db).await, |answer| text(db, answer)));
    }
    answers.finish().map(|()| all)
}

async fn bucket(db: &Db) -> Bucket {
    Bucket::connect(db.options.location.clone(), RetryPolicy::default()).await
}

async fn replicate(config: Config, once: bool, json: bool) -> Result<(), CommandError> {
    let locations: Vec<String> = config.dbs.iter().map(|db| db.options.location.to_string()).collect();
    let mut databases = Vec::new();
    for db in config.dbs {
        let database = Database::open(db.options).await.map_err(CommandError::other)?;
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
    let mut answers = Answers::new(json);
    for (database, location) in databases.into_iter().zip(locations) {
        let path = database.path().to_owned();
        let mut status = database.status();
        let shipping =
            status.wait_for(|status| status.durable.is_some() || matches!(status.phase, Phase::Fenced { .. }));
        let _ = tokio::time::timeout(Duration::from_secs(60), shipping).await;
        let closed = database.close(Duration::from_secs(60)).await.map_err(CommandError::other);
        let closed = closed.map(|position| Reached { position });
        answers.add(&path, &location, closed, |reached| match reached.position {
            Some(position) => format!("{}: everything is in the bucket, at {position}", path.display()),
            None => format!("{}: nothing was ever committed", path.display()),
        });
    }
    answers.finish()
}

#[derive(Serialize)]
struct Reached {
    position: Option<keyfleet_litestream::Position>,
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

async fn restore(db: &Db, how: &Restore, json: bool) -> Result<(), CommandError> {
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

#[derive(Serialize)]
struct Objects {
    objects: Vec<verify::Listed>,
}

async fn list(dbs: &[&Db], folder: &str, json: bool) -> Result<(), CommandError> {
    let text = |db: &Db, listed: &Objects| {
        let mut lines = vec![
            format!("{}:", db.options.location),
            format!("{:>8} {:>6} {:>10} {:>21} {:>10}  {:30} kind", "seq", "term", "commits", "", "bytes", "time"),
        ];
        for object in &listed.objects {
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
    };
    let ask = async |db: &Db| {
        let objects = verify::list(&bucket(db).await, folder).await.map_err(CommandError::other)?;
        Ok(Objects { objects })
    };
    each(dbs, json, text, ask).await.map(drop)
}

async fn verify_all(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    let text = |db: &Db, verified: &verify::Verified| {
        let said = verified.findings.iter().chain(&verified.remarks);
        let mut lines: Vec<String> = said.map(|line| format!("  {line}")).collect();
        let end = verified.position.map_or_else(|| "no replica".to_owned(), |position| position.to_string());
        let (location, objects, bytes) = (&db.options.location, verified.objects, verified.bytes);
        lines.insert(0, format!("{location}: {objects} objects whole, {bytes} bytes, ends at {end}"));
        lines.join("\n")
    };
    let ask = async |db: &Db| {
        let bar = progress("verifying");
        verify::verify(&bucket(db).await, &db.options.replica, &db.options.keys, 16, bar.as_ref())
            .await
            .map_err(CommandError::other)
    };
    let verified = each(dbs, json, text, ask).await?;
    let broken: usize = verified.iter().map(|verified| verified.findings.len()).sum();
    if broken == 0 { Ok(()) } else { Err(CommandError::Broken(format!("{broken} findings"))) }
}

/// Restores by two routes, compares them, and compares the database's own file where it is at rest.
async fn drill_all(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    let text = |db: &Db, drilled: &Drilled| {
        let rows: u64 = drilled.tables.iter().map(|table| table.rows).sum();
        let route = match &drilled.other_route {
            Some(other) => format!("the same rows from {}", other.snapshot),
            None => "there is one route only".to_owned(),
        };
        let local = match &drilled.local {
            Local::Same { commit, .. } => format!("the same rows as the local file at commit {commit}"),
            Local::NotCompared(why) => format!("not compared with the local file: {why}"),
        };
        let (location, position, tables) = (&db.options.location, drilled.newest.position, drilled.tables.len());
        format!("{location}: restored to {position}, {tables} tables with {rows} rows; {route}; {local}")
    };
    let ask = async |db: &Db| {
        let (replica, keys) = (&db.options.replica, &db.options.keys);
        Ok(drill::drill(&bucket(db).await, replica, keys, Some(&db.options.path), progress("drilling")).await?)
    };
    each(dbs, json, text, ask).await.map(drop)
}

#[derive(Serialize)]
struct Status {
    head: Option<keyfleet_litestream::Position>,
    last_commit: Option<u64>,
    age_ms: Option<u64>,
    snapshots: usize,
    boundary: Option<u64>,
    local: Option<keyfleet_litestream::Position>,
}

async fn status(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    let text = |db: &Db, status: &Status| match (&status.head, status.age_ms) {
        (Some(head), Some(age_ms)) => format!(
            "{}: {head}, newest commit {} s ago, {} snapshots; this machine last knew {}",
            db.options.location,
            age_ms / 1000,
            status.snapshots,
            status.local.map_or_else(|| "nothing".into(), |position| position.to_string())
        ),
        _ => format!("{}: there is no replica", db.options.location),
    };
    let ask = async |db: &Db| {
        let found = discover(&bucket(db).await, &db.options.replica, now_ms).await.map_err(CommandError::other)?;
        Ok(Status {
            head: found.head.map(|head| head.position),
            last_commit: found.head.map(|head| head.last_commit.0),
            age_ms: found.head.map(|head| now_ms().saturating_sub(head.time_ms)),
            snapshots: found.snapshots.len(),
            boundary: found.lowest_needed.map(|boundary| boundary.0),
            local: keyfleet_litestream::meta::PositionFile::read(&db.options.path).position,
        })
    };
    each(dbs, json, text, ask).await.map(drop)
}

async fn sweep(dbs: &[&Db], dry_run: bool, json: bool) -> Result<(), CommandError> {
    let text = |db: &Db, swept: &retention::Swept| {
        let would = if dry_run { "would delete" } else { "deleted" };
        let boundary = swept.lowest_needed.map_or_else(|| "none".into(), |boundary| boundary.to_string());
        let (location, deleted, kept) = (&db.options.location, swept.deleted.len(), swept.kept.len());
        format!("{location}: {would} {deleted} objects; boundary {boundary}; {kept} restore points kept")
    };
    let ask = async |db: &Db| {
        retention::run(&bucket(db).await, &db.rules, now_ms(), dry_run).await.map_err(CommandError::other)
    };
    each(dbs, json, text, ask).await.map(drop)
}

#[derive(Serialize)]
struct Made {
    recipient: String,
}

fn keygen(output: &Path, json: bool) -> Result<(), CommandError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    let identity = Identity::generate(&mut rng);
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(output).map_err(CommandError::other)?;
    writeln!(file, "{}", identity.to_hex().as_str()).and_then(|()| file.sync_all()).map_err(CommandError::other)?;
    let made = Made { recipient: identity.recipient().to_hex() };
    answer(json, &made, |made| format!("recipient: {}", made.recipient));
    Ok(())
}
