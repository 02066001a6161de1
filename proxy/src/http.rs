//! `/metrics`, `/healthz`, `/readyz`, on the control runtime.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};

use crate::metrics::Metrics;

/// What `/readyz` asks: `Err` says what is missing, `Ok` what is missing but does not matter to all.
pub type Ready = Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    ready: Ready,
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Binds `address`, for `serve`. As on the port of the applications, the process that takes over may already listen.
pub async fn bind(address: &str) -> std::io::Result<TcpListener> {
    let mut failure = std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Serves until the runtime ends.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: Ready) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(alive))
        .route("/readyz", get(readiness))
        .with_state(Shared { metrics, ready });
    axum::serve(listener, app).await
}

async fn scrape(State(shared): State<Shared>) -> Response {
    match shared.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn readiness(State(shared): State<Shared>) -> Response {
    match (shared.ready)() {
        Ok(missing) => {
            let lines = missing.iter().map(|line| format!("{line}\n"));
            std::iter::once("ready\n".to_owned()).chain(lines).collect::<String>().into_response()
        }
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")).into_response(),
    }
}
