//! The node's heartbeat: one write each second to a Redis-compatible server, with the ledger's digest and what is free. Hints for others alone:
//! nothing is ever read from there to decide by, and a server that is down, empty or old changes nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memboss_platform::shutdown::Shutdown;
use prost::Message as _;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use crate::credentials::Source;
use crate::node::view::Snapshot;

/// Time between two heartbeats.
const EVERY: Duration = Duration::from_secs(1);
/// A heartbeat counts for so long, in milliseconds.
const LASTS_MS: i64 = 5000;
/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The field in which a machine tells of itself, as the protocol has it.
pub const SHOWS: &str = "shows";

/// What a heartbeat tells beside that the node is there and what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing: the API server has the rest.
    Beat,
    /// The machine as it stands, for others that share the server.
    Machine,
}

/// Counts heartbeats.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: AtomicU64,
    misses: AtomicU64,
}

impl Pulse {
    /// Written and not written.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.beats.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

/// The key of a node's heartbeat.
#[must_use]
pub fn key(node: &str) -> String {
    format!("{{n:{node}}}:hb")
}

/// A heartbeat could not be written.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("failed to get credentials for the Redis server")]
    Credentials(#[source] crate::credentials::Failure),
    #[error("failed to connect to the Redis server")]
    Connect(#[source] RedisError),
    #[error("failed to write the heartbeat")]
    Write(#[source] RedisError),
}

/// Writes heartbeats until `shutdown`.
pub async fn run(
    source: Source,
    telling: Telling,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pulse: Arc<Pulse>,
    shutdown: Shutdown,
) {
    let mut beat = Beat { source, telling, connection: None, sequence: 0 };
    let mut pause = EVERY;
    let mut down = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let snapshot = snapshots.borrow().clone();
        if !snapshot.is_known() {
            continue;
        }
        match beat.write(&snapshot).await {
            Ok(was_there) => {
                pulse.beats.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut down) {
                    tracing::info!("heartbeats are written again");
                } else if !was_there && beat.sequence > 1 {
                    tracing::info!("the Redis server had lost the last heartbeat; it has all of it again");
                }
                pause = EVERY;
            }
            Err(error) => {
                pulse.misses.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut down, true) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no heartbeats for now; nothing else depends on it"
                    );
                }
                beat.connection = None;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

struct Beat {
    source: Source,
    telling: Telling,
    connection: Option<MultiplexedConnection>,
    sequence: u64,
}

impl Beat {
    /// Whether the last heartbeat was still there.
    async fn write(&mut self, snapshot: &Snapshot) -> Result<bool, Missed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.sequence += 1;
        let key = key(&snapshot.node);
        let mut fields = fields(snapshot, self.sequence);
        if self.telling == Telling::Machine {
            fields.push((SHOWS.to_owned(), crate::serve::figures(snapshot).encode_to_vec()));
        }
        let mut write = redis::pipe();
        // HSET itself, which the node's user may run; the client's own method sends an older command.
        write.atomic().cmd("HSET").arg(&key).arg(&fields).pexpire(&key, LASTS_MS).ignore();
        // How many fields the server did not have: all of them, if it was emptied or is another one.
        let (new,): (usize,) = write.query_async(&mut connection).await.map_err(|error| {
            self.source.suspect(&error);
            Missed::Write(error)
        })?;
        self.connection = Some(connection);
        Ok(new < fields.len())
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, Missed> {
        let info = self.source.connection().await.map_err(Missed::Credentials)?;
        crate::credentials::connect(info).await.map_err(|error| {
            self.source.suspect(&error);
            Missed::Connect(error)
        })
    }
}

fn fields(snapshot: &Snapshot, sequence: u64) -> Vec<(String, Vec<u8>)> {
    let mut fields = vec![
        ("boot".to_owned(), snapshot.boot_id.clone().into_bytes()),
        ("epoch".to_owned(), snapshot.agent_epoch.to_string().into_bytes()),
        ("seq".to_owned(), sequence.to_string().into_bytes()),
        ("digest".to_owned(), snapshot.digest.clone().into_bytes()),
        ("hold".to_owned(), snapshot.hold.clone().unwrap_or_default().into_bytes()),
    ];
    fields.extend(
        snapshot.gpus.iter().map(|gpu| (format!("free:{}", gpu.uuid), gpu.free.mib().to_string().into_bytes())),
    );
    fields
}
