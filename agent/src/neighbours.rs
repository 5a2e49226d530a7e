//! The machines that share a Redis-compatible server with this one, as they tell of themselves by their heartbeats. For people to see: nothing here decides, and
//! nothing depends on it.

use std::time::Duration;

use memboss_agent_api::v1::StatusResponse;
use prost::Message as _;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::credentials::Source;
use crate::heartbeat::{self, SHOWS};

/// Whoever asks within that time hears the same: many who ask do not become many questions.
const FRESH: Duration = Duration::from_secs(1);
/// So many machines are shown at most.
const MOST: usize = 1000;

/// They cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// How to reach the server is not known.
    #[error("failed to get credentials for the Redis server")]
    Credentials(#[source] crate::credentials::Failure),
    /// It does not answer.
    #[error("the Redis server that the machines share does not answer; this machine goes on without")]
    Ask(#[source] RedisError),
}

/// Asks for the machines.
#[derive(Debug)]
pub struct Neighbours(Mutex<State>);

#[derive(Debug)]
struct State {
    source: Source,
    last: Option<(Instant, Vec<StatusResponse>)>,
}

impl Neighbours {
    /// Those of that server.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self(Mutex::new(State { source, last: None }))
    }

    /// All that have told of themselves within the last seconds, by name.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn machines(&self) -> Result<Vec<StatusResponse>, Failure> {
        let mut state = self.0.lock().await;
        if let Some((_, machines)) = state.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(machines.clone());
        }
        let info = state.source.connection().await.map_err(Failure::Credentials)?;
        let machines = ask(info).await.map_err(Failure::Ask)?;
        state.last = Some((Instant::now(), machines.clone()));
        Ok(machines)
    }
}

async fn ask(info: redis::ConnectionInfo) -> Result<Vec<StatusResponse>, RedisError> {
    let mut server = crate::credentials::connect(info).await?;
    let keys = keys(&mut server).await?;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut told = redis::pipe();
    for key in &keys {
        told.hget(key, SHOWS);
    }
    let told: Vec<Option<Vec<u8>>> = told.query_async(&mut server).await?;
    // What is not in our words is somebody else's, or of another version: it is passed over.
    let mut machines: Vec<_> =
        told.into_iter().flatten().filter_map(|told| StatusResponse::decode(told.as_slice()).ok()).collect();
    machines.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(machines)
}

async fn keys(server: &mut MultiplexedConnection) -> Result<Vec<String>, RedisError> {
    let (mut keys, mut cursor) = (Vec::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(heartbeat::key("*")).arg("COUNT").arg(MOST);
        let (next, found): (u64, Vec<String>) = scan.query_async(server).await?;
        keys.extend(found);
        if next == 0 || keys.len() >= MOST {
            break;
        }
        cursor = next;
    }
    // A scan may tell a key twice.
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(MOST);
    Ok(keys)
}
