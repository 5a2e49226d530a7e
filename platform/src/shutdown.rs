//! One token per process that says "end now", set by SIGTERM, SIGINT or a task that ended early. It ends nothing by itself.

use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken as Shutdown;

/// The signals could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("failed to watch for SIGTERM and SIGINT")]
pub struct WatchSignals(#[source] std::io::Error);

/// A token that is cancelled by the first SIGTERM or SIGINT. Call it inside the runtime.
///
/// # Errors
/// [`WatchSignals`] when the signal handlers cannot be installed.
pub fn on_signal() -> Result<Shutdown, WatchSignals> {
    let shutdown = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(WatchSignals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(WatchSignals)?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = token.cancelled() => return,
        };
        tracing::info!(signal = name, "shutting down");
        token.cancel();
    });
    Ok(shutdown)
}
