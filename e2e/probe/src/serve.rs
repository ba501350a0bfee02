//! The same queries over HTTP, so that one pod can query another.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::signal::unix::{SignalKind, signal};

use crate::ask;

type Answer = std::result::Result<String, (StatusCode, String)>;

/// Serves until SIGTERM.
pub(crate) fn run(listen: SocketAddr, volume: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        let app = Router::new()
            .route("/", get(who))
            .route("/volume", get(read).put(write))
            .route("/resolve/{name}", get(resolve))
            .route("/fetch", get(fetch))
            .route("/exit", get(exit))
            .with_state(volume);
        let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        println!("serving on {listen}");
        axum::serve(listener, app)
            .with_graceful_shutdown(async move {
                stop.recv().await;
            })
            .await?;
        println!("told to end");
        Ok(())
    })
}

/// Returns the pod's name, so that a scenario sees which pod answered.
async fn who() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

async fn read(State(volume): State<PathBuf>) -> Answer {
    let file = volume.join("written");
    fs::read_to_string(&file).map_err(|error| (StatusCode::NOT_FOUND, format!("{}: {error}", file.display())))
}

/// Answers only after the content is on the disk.
async fn write(State(volume): State<PathBuf>, body: String) -> Answer {
    let put = |folder: &Path| -> std::io::Result<()> {
        let file = fs::File::create(folder.join("written"))?;
        std::io::Write::write_all(&mut &file, body.as_bytes())?;
        file.sync_all()
    };
    put(&volume).map(|()| body.clone()).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Exits at once without an answer, like a killed program.
async fn exit() -> Answer {
    std::process::exit(3)
}

async fn resolve(UrlPath(name): UrlPath<String>) -> Answer {
    answer(move || ask::resolve(&name)).await
}

async fn fetch(Query(query): Query<HashMap<String, String>>) -> Answer {
    let Some(url) = query.get("url").cloned() else {
        return Err((StatusCode::BAD_REQUEST, "the query has no url: GET /fetch?url=URL".to_owned()));
    };
    answer(move || ask::fetch(&url, Path::new("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"), None, None))
        .await
}

async fn answer(question: impl FnOnce() -> Result<String> + Send + 'static) -> Answer {
    let bad_gateway = |error: String| (StatusCode::BAD_GATEWAY, error);
    match tokio::task::spawn_blocking(question).await {
        Ok(answer) => answer.map_err(|error| bad_gateway(format!("{error:#}"))),
        Err(error) => Err(bad_gateway(error.to_string())),
    }
}
