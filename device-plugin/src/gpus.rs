//! Follows the agent's view of the GPUs, for ever, and hands it on: when the agent is away, what was seen last stays.

use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{GpuList, WatchGpusRequest};
use memboss_platform::admin::Condition;
use memboss_platform::shutdown::Shutdown;
use tokio::sync::watch;

use crate::state::{State, chain};

/// An agent that restarts is back within seconds; asking a Unix socket costs next to nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Runs until `shutdown`.
pub async fn follow(
    state: &State,
    seen: &watch::Sender<GpuList>,
    socket: &Path,
    condition: &Condition,
    shutdown: &Shutdown,
) {
    let schedule = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter();
    let mut pauses = schedule.build();
    let mut said = String::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            end = stream(state, seen, socket, condition) => match end {
                // It worked for a while: start over with short pauses.
                Ended::AfterLists(why) => { pauses = schedule.build(); said.clear(); report(condition, why, &mut said); }
                Ended::Before(why) => report(condition, why, &mut said),
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
        }
    }
}

enum Ended {
    Before(String),
    AfterLists(String),
}

async fn stream(state: &State, seen: &watch::Sender<GpuList>, socket: &Path, condition: &Condition) -> Ended {
    let channel = match memboss_agent_api::connect(socket).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Before(chain(&error)),
    };
    let mut lists = match NodeClient::new(channel).watch_gpus(WatchGpusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ended::Before(format!("the agent refused to tell its GPUs: {}", status.message())),
    };
    loop {
        match lists.message().await {
            Ok(Some(list)) => {
                state.observe(&list).await;
                seen.send_replace(list);
                condition.ready();
            }
            Ok(None) => return Ended::AfterLists("the agent ended its stream of GPUs".to_owned()),
            Err(status) => return Ended::AfterLists(format!("the agent's stream of GPUs broke: {}", status.message())),
        }
    }
}

/// Once per reason: an agent that stays away is no news.
fn report(condition: &Condition, why: String, said: &mut String) {
    if *said != why {
        tracing::warn!(why, "the agent is away; advertising what was seen last");
        said.clone_from(&why);
    }
    condition.not_ready(why);
}
