//! Heeds notices: watches its lease over the agent's socket and gives memory back as it was told to. Without a socket there are no notices.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use memboss_agent_api::v1::workload_client::WorkloadClient;
use memboss_agent_api::v1::{LeaseView, LeaveRequest, Notice, OffloadRequest, ShrinkRequest, WatchRequest};
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::cuda::Card;
use crate::{amount, say};

/// The agent restarts at times: how long until it is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// What is done when memory is asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// Go.
    Leave,
    /// Nothing.
    Ignore,
    /// Keep so many bytes on each GPU.
    Shrink(u64),
    /// Keep so many bytes on each GPU, and move the rest into RAM.
    Offload(u64),
}

impl FromStr for Response {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "leave" => Ok(Self::Leave),
            None if text == "ignore" => Ok(Self::Ignore),
            Some(("shrink", keep)) => Ok(Self::Shrink(amount(keep)?)),
            Some(("offload", keep)) => Ok(Self::Offload(amount(keep)?)),
            _ => Err(format!("{text:?}: write leave, ignore, shrink:12Gi or offload:12Gi")),
        }
    }
}

/// Watches for ever; comes back when a notice was answered by leaving.
pub(crate) async fn heed(response: Response, cards: &mut [Card]) {
    let Ok(socket) = std::env::var("MEMBOSS_SOCKET") else { return std::future::pending().await };
    let mut heard = String::new();
    loop {
        if let Ok(channel) = memboss_agent_api::connect(Path::new(&socket)).await
            && watch(WorkloadClient::new(channel), response, cards, &mut heard).await
        {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether it is time to go.
async fn watch(mut agent: WorkloadClient<Channel>, response: Response, cards: &mut [Card], heard: &mut String) -> bool {
    let mut views = match agent.watch(WatchRequest {}).await {
        Ok(views) => views.into_inner(),
        Err(_) => return false,
    };
    while let Some(Ok(LeaseView { notice, gpus, .. })) = views.next().await {
        let Some(notice) = notice.filter(|notice| notice.id != *heard) else { continue };
        heard.clone_from(&notice.id);
        say(&json!({
            "event": "notice", "id": notice.id, "preemptor": notice.preemptor, "class": notice.preemptor_class, "reason": notice.reason,
            "needed_mib": notice.needed_mib, "needed_ram_mib": notice.needed_ram_mib, "remaining_ms": notice.remaining_ms,
        }));
        let held: u64 = gpus.iter().map(|gpu| gpu.memory_mib).sum();
        if answer(&mut agent, response, cards, &notice, held).await {
            return true;
        }
    }
    false
}

async fn answer(
    agent: &mut WorkloadClient<Channel>,
    response: Response,
    cards: &mut [Card],
    notice: &Notice,
    held: u64,
) -> bool {
    let notice_id = notice.id.clone();
    let outcome = match response {
        Response::Ignore => return false,
        Response::Leave => {
            say(&json!({ "event": "leaving" }));
            if let Err(refused) = agent.leave(LeaveRequest { notice_id }).await {
                say(&json!({ "event": "error", "what": refused.message() }));
            }
            return true;
        }
        Response::Shrink(keep) => {
            keep_only(cards, keep);
            let memory_mib = vec![keep >> 20; cards.len()];
            agent.shrink(ShrinkRequest { memory_mib, notice_id }).await.map(|_| "shrunk")
        }
        Response::Offload(keep) => {
            keep_only(cards, keep);
            let memory_mib = vec![keep >> 20; cards.len()];
            let kept: u64 = memory_mib.iter().sum();
            agent
                .offload(OffloadRequest { memory_mib, ram_mib: held.saturating_sub(kept), notice_id })
                .await
                .map(|_| "offloaded")
        }
    };
    match outcome {
        Ok(event) => say(&json!({ "event": event })),
        Err(refused) => say(&json!({ "event": "error", "what": refused.message() })),
    }
    false
}

/// Gives back what is above so many bytes on each GPU; who holds less keeps that.
fn keep_only(cards: &mut [Card], bytes: u64) {
    for card in cards.iter_mut().filter(|card| card.held() > bytes) {
        if let Err(failure) = card.hold(bytes) {
            say(&json!({ "event": "error", "gpu": card.uuid(), "what": failure.to_string() }));
        }
    }
}
