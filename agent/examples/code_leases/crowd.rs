//! The same pair with more and more waiters, each a request over the socket.

use std::time::{Duration, Instant};

use anyhow::Result;
use memboss_agent_api::v1::AcquireRequest;
use tokio::task::JoinSet;

use crate::agent::{Agent, Client, acquire, ram, release};
use crate::table::{Goal, Samples, Table};

const TIMES: usize = 200;
/// So many requests are on their way at once while the crowd comes.
const AT_ONCE: usize = 32;
/// A crowd that takes longer to come is not waited for.
const PATIENCE: Duration = Duration::from_secs(25);
/// They live by that, not by a stream.
const LIVES_MS: u64 = 3_600_000;

/// The waiters ask for all RAM, of which a part is held; beside them somebody urgent takes and gives back what is left.
pub(crate) async fn measure(agent: &Agent, table: &Table) -> Result<()> {
    let mut client = agent.client().await?;
    let _held = acquire(&mut client, ram(10 * 1024)).await?;
    let mut medians = Vec::new();
    let mut there = 0;
    for waiters in [1_000, 10_000, 100_000] {
        let begun = Instant::now();
        let Ok(come) = tokio::time::timeout(PATIENCE, come(agent, waiters - there)).await else {
            println!("not measured: {waiters} waiters do not come within {} s", PATIENCE.as_secs());
            return Ok(());
        };
        come?;
        let came = (waiters - there) as f64 / begun.elapsed().as_secs_f64();
        there = waiters;
        let mut taken = Samples::default();
        for _ in 0..TIMES {
            let begun = Instant::now();
            let urgent = AcquireRequest { class: "urgent".to_owned(), ..ram(256) };
            let held = acquire(&mut client, urgent).await?;
            release(&mut client, held).await?;
            taken.push(begun.elapsed());
        }
        table.times(&format!("acquire and release, {waiters} wait"), &taken, None, None);
        table.figure("  they came", came, "a second", None);
        medians.push(taken.percentile(50));
    }
    if let [few, .., many] = medians.as_slice() {
        table.figure("100,000 waiters against 1,000", many / few, "times", Some(Goal::AtMost(1.5)));
    }
    Ok(())
}

async fn come(agent: &Agent, count: usize) -> Result<()> {
    let mut crowd = JoinSet::new();
    for part in 0..AT_ONCE {
        let client = agent.client().await?;
        let share = count / AT_ONCE + usize::from(part < count % AT_ONCE);
        crowd.spawn(wait_in_line(client, share));
    }
    while let Some(done) = crowd.join_next().await {
        done??;
    }
    Ok(())
}

async fn wait_in_line(mut client: Client, count: usize) -> Result<()> {
    for _ in 0..count {
        let request = AcquireRequest { class: "batch".to_owned(), ttl_ms: LIVES_MS, ..ram(45 * 1024) };
        // It is in the queue once it is answered; it needs no stream.
        drop(client.acquire(request).await?);
    }
    Ok(())
}
