//! Commands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyfleet_litestream::bucket::{Bucket, RetryPolicy};
use keyfleet_litestream::clock::now_ms;
use keyfleet_litestream::config::{Config, Db};
use keyfleet_litestream::database::{Database, Options, Phase};
use keyfleet_litestream::discover::discover;
use keyfleet_litestream::drill;
use keyfleet_litestream::keys::Identity;
use keyfleet_litestream::metrics::Metrics;
use keyfleet_litestream::restore::{self, RestoreError, Target};
use keyfleet_litestream::{layout, retention, verify};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::args::{Args, Command, Restore};
use crate::output::{Answers, CommandError, answer, progress};
use crate::text;

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

/// Finds the database of this path; without a path, the only one.
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

/// Finds the databases that a command is about: the one of this path, or all.
fn some<'c>(config: &'c Config, path: Option<&Path>) -> Result<Vec<&'c Db>, CommandError> {
    match path {
        None => Ok(config.dbs.iter().collect()),
        Some(_) => Ok(vec![one(config, path)?]),
    }
}

/// Runs a command for each database and prints the answers. Returns those that succeeded.
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
        // Files at rest are adopted, none are made: a wrong letter in a path is no database.
        let options = Options { create: false, ..db.options };
        let database = Database::open(options).await.map_err(CommandError::other)?;
        tracing::info!(path = %database.path().display(), started = ?database.started().term, "replicating");
        databases.push(database);
    }
    if !once {
        tokio::select! {
            () = serve_metrics(config.addr, &databases) => {}
            () = shutdown_signal() => {}
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

/// Waits for SIGTERM or Ctrl-C.
async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Serves the page of metrics, whatever the path of the request. One slow reader keeps no other from it.
async fn serve_metrics(addr: Option<std::net::SocketAddr>, databases: &[Database]) {
    let Some(addr) = addr else { return std::future::pending().await };
    let listener = match tokio::net::TcpListener::bind(addr).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, %addr, "metrics cannot be served");
            return std::future::pending().await;
        }
    };
    let (metrics, databases) = (Arc::new(Metrics::default()), Arc::<[Database]>::from(databases));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        tokio::spawn(answer_scrape(socket, Arc::clone(&metrics), Arc::clone(&databases)));
    }
}

/// Answers one request with the page.
async fn answer_scrape(mut socket: TcpStream, metrics: Arc<Metrics>, databases: Arc<[Database]>) {
    let mut request = [0; 1024];
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut request)).await;
    join_all(databases.iter().map(|database| metrics.collect(database))).await;
    let page = metrics.page();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    let _ = socket.write_all(head.as_bytes()).await;
    let _ = socket.write_all(page.as_bytes()).await;
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
        adopt: how.adopt.clone(),
        pin: true,
        progress: progress("restoring"),
        begin_at_most: None,
    };
    let replica = &db.options.replica;
    match restore::restore(&bucket(db).await, replica, &db.options.keys, output, &options).await {
        Ok(restored) => {
            answer(json, &restored, |restored| {
                let collected = if restored.collected { "; what came after it was collected" } else { "" };
                let adopted = if how.adopt.is_some() { "; the next start goes on from here" } else { "" };
                format!(
                    "restored {} to {} (commit {}, {}): {} objects, {} bytes read{collected}{adopted}",
                    output.display(),
                    restored.position,
                    restored.commit,
                    text::time(restored.time_ms),
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
pub(crate) struct Objects {
    pub(crate) objects: Vec<verify::Listed>,
}

async fn list(dbs: &[&Db], folder: &str, json: bool) -> Result<(), CommandError> {
    each(dbs, json, text::objects, async |db: &Db| {
        let bucket = bucket(db).await;
        let objects = verify::list(&bucket, folder).await.map_err(CommandError::other)?;
        if objects.is_empty() {
            // Nothing of this kind, or nothing at all.
            expect_replica(&bucket, db).await?;
        }
        Ok(Objects { objects })
    })
    .await
    .map(drop)
}

async fn verify_all(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    let verified = each(dbs, json, text::verified, async |db: &Db| {
        let bar = progress("verifying");
        let verified = verify::verify(&bucket(db).await, &db.options.replica, &db.options.keys, 16, bar.as_ref()).await;
        Ok(verified.map_err(RestoreError::from)?)
    })
    .await?;
    let broken: usize = verified.iter().map(|verified| verified.findings.len()).sum();
    if broken == 0 { Ok(()) } else { Err(CommandError::Broken(format!("{broken} findings"))) }
}

/// Restores by two routes, compares the two, and compares the database's own file where it is at rest.
async fn drill_all(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    each(dbs, json, text::drilled, async |db: &Db| {
        let (replica, keys) = (&db.options.replica, &db.options.keys);
        Ok(drill::drill(&bucket(db).await, replica, keys, Some(&db.options.path), progress("drilling")).await?)
    })
    .await
    .map(drop)
}

#[derive(Serialize)]
pub(crate) struct Status {
    pub(crate) head: Option<keyfleet_litestream::Position>,
    pub(crate) last_commit: Option<u64>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) snapshots: usize,
    pub(crate) boundary: Option<u64>,
    pub(crate) local: Option<keyfleet_litestream::Position>,
}

async fn status(dbs: &[&Db], json: bool) -> Result<(), CommandError> {
    each(dbs, json, text::status, async |db: &Db| {
        let found = discover(&bucket(db).await, &db.options.replica).await.map_err(RestoreError::from)?;
        if found.head.is_none() {
            return Err(RestoreError::NoReplica.into());
        }
        Ok(Status {
            head: found.head.map(|head| head.position),
            last_commit: found.head.map(|head| head.last_commit.0),
            age_ms: found.head.map(|head| now_ms().saturating_sub(head.time_ms)),
            snapshots: found.snapshots.len(),
            boundary: found.lowest_needed.map(|number| number.0),
            local: keyfleet_litestream::meta::PositionFile::read(&db.options.path).position,
        })
    })
    .await
    .map(drop)
}

/// Checks that there is a replica: an emptied bucket, or a wrong prefix, passes no nightly check.
async fn expect_replica(bucket: &Bucket, db: &Db) -> Result<(), CommandError> {
    match discover(bucket, &db.options.replica).await.map_err(RestoreError::from)?.head {
        Some(_) => Ok(()),
        None => Err(RestoreError::NoReplica.into()),
    }
}

async fn sweep(dbs: &[&Db], dry_run: bool, json: bool) -> Result<(), CommandError> {
    each(
        dbs,
        json,
        |db, swept| text::swept(db, swept, dry_run),
        async |db: &Db| {
            let bucket = bucket(db).await;
            let swept = retention::run(&bucket, &db.rules, now_ms(), dry_run).await.map_err(CommandError::other)?;
            if swept.kept.is_empty() {
                expect_replica(&bucket, db).await?;
            }
            Ok(swept)
        },
    )
    .await
    .map(drop)
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
