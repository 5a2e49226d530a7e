//! Reads the agents' heartbeats from Redis. A node whose heartbeat is missing is suspect: nothing new is placed there, nothing is freed. Redis itself
//! being away or just back says nothing about any node.

use std::collections::BTreeSet;
use std::time::Duration;

use memboss_platform::shutdown::Shutdown;
use redis::aio::ConnectionManager;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Redis must have answered for so long without a break before a missing heartbeat means something: as long as one lives.
const TRUSTED_AFTER: Duration = Duration::from_secs(6);

/// What the heartbeats say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Nodes whose heartbeat is missing.
    pub suspects: BTreeSet<String>,
    /// Whether Redis answers.
    pub redis_answers: bool,
}

/// Looks until the shutdown. `nodes` are those that should have a heartbeat.
pub async fn run(
    client: Option<redis::Client>,
    nodes: watch::Receiver<BTreeSet<String>>,
    out: watch::Sender<Pulse>,
    shutdown: Shutdown,
) {
    let Some(client) = client else { return };
    let mut connection: Option<ConnectionManager> = None;
    let mut good_since: Option<Instant> = None;
    // A node that never had one is not missing it: its agent may not have its credentials yet.
    let mut met: BTreeSet<String> = BTreeSet::new();
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if connection.is_none() {
            connection = tokio::time::timeout(EVERY, client.get_connection_manager()).await.ok().and_then(Result::ok);
        }
        let names: Vec<String> = nodes.borrow().iter().cloned().collect();
        let beats = match connection.as_mut() {
            Some(connection) => beats(connection, &names).await,
            None => None,
        };
        let answers = beats.is_some();
        if answers != good_since.is_some() {
            good_since = answers.then(Instant::now);
            if answers {
                info!("Redis answers");
            } else {
                warn!("Redis does not answer: placement and detection are slower, nothing else changes");
            }
        }
        let trusted = good_since.is_some_and(|since| since.elapsed() >= TRUSTED_AFTER);
        let told: Vec<_> = names.into_iter().zip(beats.unwrap_or_default()).collect();
        met.extend(told.iter().filter(|(_, beats)| *beats).map(|(name, _)| name.clone()));
        let missing = told.into_iter().filter(|(name, beats)| !beats && met.contains(name)).map(|(name, _)| name);
        let pulse =
            Pulse { suspects: if trusted { missing.collect() } else { BTreeSet::new() }, redis_answers: answers };
        out.send_if_modified(|old| {
            let news = *old != pulse;
            for node in pulse.suspects.difference(&old.suspects) {
                warn!(node, "no heartbeat: nothing new is placed there");
            }
            *old = pulse;
            news
        });
    }
}

/// For each node, whether its heartbeat is there; `None` if Redis did not answer.
async fn beats(connection: &mut ConnectionManager, nodes: &[String]) -> Option<Vec<bool>> {
    let mut pipe = redis::pipe();
    pipe.cmd("PING").ignore();
    for node in nodes {
        pipe.cmd("EXISTS").arg(format!("{{n:{node}}}:hb"));
    }
    tokio::time::timeout(EVERY, pipe.query_async::<Vec<bool>>(connection)).await.ok()?.ok()
}
