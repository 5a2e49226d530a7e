//! The admin HTTP server: `/livez` (the runtime answers), `/readyz` (every named condition holds) and `/metrics`. It changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Registry;
use crate::shutdown::Shutdown;

/// The admin server could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The address is taken or not ours.
    #[error("failed to listen on {address}: is another process of memboss using it? choose another admin address")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("failed to go on serving the admin address")]
    Serve(#[source] std::io::Error),
}

/// The named conditions that together make the process ready; cheap to clone, all clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

/// One condition of a [`Readiness`], held by the part that knows about it.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition, not met until its holder says so.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        self.set(name, Err("starting".to_owned()));
        Condition { name, readiness: self.clone() }
    }

    /// Whether every condition is met, and one line for each.
    #[must_use]
    pub fn report(&self) -> (bool, String) {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = String::new();
        for (name, state) in conditions.iter() {
            let written = match state {
                Ok(()) => writeln!(lines, "{name}: ready"),
                Err(reason) => writeln!(lines, "{name}: not ready: {reason}"),
            };
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
        (conditions.values().all(Result::is_ok), lines)
    }

    fn set(&self, name: &'static str, state: Result<(), String>) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state);
    }
}

impl Condition {
    /// The condition is met.
    pub fn ready(&self) {
        self.readiness.set(self.name, Ok(()));
    }

    /// The condition is not met, for this reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness.set(self.name, Err(reason.into()));
    }
}

/// A bound admin address that is not served yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// Takes the address, so that a clash is an error at start.
    ///
    /// # Errors
    /// [`Failure::Listen`].
    pub async fn bind(address: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|source| Failure::Listen { address, source })?;
        Ok(Self { listener })
    }

    /// Where it listens; tells the port when port 0 was asked for.
    ///
    /// # Errors
    /// [`Failure::Serve`] when the system does not say.
    pub fn address(&self) -> Result<SocketAddr, Failure> {
        self.listener.local_addr().map_err(Failure::Serve)
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// [`Failure::Serve`].
    pub async fn serve(self, readiness: Readiness, registry: Registry, shutdown: Shutdown) -> Result<(), Failure> {
        let routes = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz).with_state(readiness))
            .route("/metrics", get(metrics).with_state(Arc::new(registry)));
        axum::serve(self.listener, routes)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
            .map_err(Failure::Serve)
    }
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let (ready, lines) = readiness.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines).into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "failed to encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_its_conditions_and_the_server_ends_on_shutdown() {
        let (readiness, shutdown) = (Readiness::default(), Shutdown::new());
        let condition = readiness.condition("kubelet");
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.address().unwrap();
        let registry = crate::metrics::registry("probe", "0");
        let server = tokio::spawn(admin.serve(readiness, registry, shutdown.clone()));

        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("kubelet: not ready: starting"), "{answer}");
        condition.ready();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        condition.not_ready("no stream");
        assert!(fetch(address, "/readyz").await.contains("no stream"));
        assert!(fetch(address, "/metrics").await.contains("memboss_build_info"));

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
