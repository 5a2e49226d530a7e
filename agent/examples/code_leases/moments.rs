//! What passes from one client's deed to what another hears: a release and the next grant, a request and the notice of its victim.

use std::time::Instant;

use anyhow::{Context as _, Result};
use memboss_agent_api::v1::{AcquireRequest, Phase};

use crate::agent::{Agent, acquire, ram, release, until, vram};
use crate::table::{Goal, Samples, Table};

const TIMES: usize = 500;
/// Nearly all RAM, and nearly all of a GPU: two do not fit.
const MOST_RAM: u64 = 40 * 1024;
const MOST_VRAM: u64 = 20 * 1024;

/// From the release of a lease to the grant of the one that waits for it, as its client hears it.
pub(crate) async fn next_grant(agent: &Agent, table: &Table) -> Result<()> {
    let (mut one, mut other) = (agent.client().await?, agent.client().await?);
    // The other GPU is taken.
    let _beside = acquire(&mut one, vram(MOST_VRAM)).await?;
    for (what, request, goal) in [
        ("release -> next grant, RAM", ram(MOST_RAM), Some(Goal::AtMost(1.0))),
        ("release -> next grant, GPU memory (a look between)", vram(MOST_VRAM), Some(Goal::AtMost(1.0))),
    ] {
        let mut taken = Samples::default();
        for _ in 0..TIMES {
            let held = acquire(&mut one, request.clone()).await?;
            let waiting = other.acquire(request.clone()).await?.into_inner();
            let waiting = until(waiting, Phase::Waiting).await?;
            let begun = Instant::now();
            let (released, granted) = tokio::join!(release(&mut one, held), async {
                (until(waiting.events, Phase::Active).await, begun.elapsed())
            });
            released?;
            let (granted, after) = granted;
            taken.push(after);
            release(&mut other, granted?).await?;
        }
        table.times(what, &taken, goal, None);
    }
    Ok(())
}

/// From the request of a higher class to the notice that its victim hears.
pub(crate) async fn notice(agent: &Agent, table: &Table) -> Result<()> {
    let (mut low, mut high) = (agent.client().await?, agent.client().await?);
    let mut taken = Samples::default();
    for _ in 0..TIMES {
        let class = |class: &str| AcquireRequest { class: class.to_owned(), ..ram(MOST_RAM) };
        let victim = acquire(&mut low, class("batch")).await?;
        let begun = Instant::now();
        let urgent = high.acquire(class("urgent"));
        let (urgent, told) =
            tokio::join!(urgent, async { (until(victim.events, Phase::Revoking).await, begun.elapsed()) });
        let (victim, after) = told;
        taken.push(after);
        release(&mut low, victim?).await?;
        let held = until(urgent.context("a request is taken")?.into_inner(), Phase::Active).await?;
        release(&mut high, held).await?;
    }
    table.times("request -> notice to the holder", &taken, None, Some(Goal::AtMost(10.0)));
    Ok(())
}
