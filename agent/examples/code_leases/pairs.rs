//! Acquire and release, again and again: alone, and by 64 clients that want the same memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::agent::{Agent, Client, acquire, ram, release, vram};
use crate::table::{Goal, Samples, Table};

/// So many pairs alone, after some that warm up.
const PAIRS: usize = 5_000;
const WARM: usize = 500;
/// So many clients contend, for so long.
const CLIENTS: usize = 64;
const SPAN: Duration = Duration::from_secs(4);
/// Of 48 GiB, so that 16 of them have it at once.
const SHARE: u64 = 3 * 1024;

const ALONE: &str = "Rust, acquire and release, alone";
const CONTENDED: &str = "Rust, 64 clients contend for RAM";

/// One client, and nobody beside it.
pub(crate) async fn uncontended(agent: &Agent, table: &Table) -> Result<()> {
    let mut client = agent.client().await?;
    let (mut taken, mut given, mut both) = (Samples::default(), Samples::default(), Samples::default());
    for turn in 0..WARM + PAIRS {
        let begun = Instant::now();
        let held = acquire(&mut client, ram(256)).await?;
        let active = begun.elapsed();
        release(&mut client, held).await?;
        if turn >= WARM {
            taken.push(active);
            given.push(begun.elapsed().saturating_sub(active));
            both.push(begun.elapsed());
        }
    }
    table.times("Rust, acquire, alone", &taken, Some(Goal::AtMost(0.1)), Some(Goal::AtMost(1.0)));
    table.times("Rust, release, alone", &given, Some(Goal::AtMost(0.1)), Some(Goal::AtMost(1.0)));
    table.times(ALONE, &both, None, None);
    let mut on_gpu = Samples::default();
    for _ in 0..PAIRS / 5 {
        let begun = Instant::now();
        let held = acquire(&mut client, vram(256)).await?;
        release(&mut client, held).await?;
        on_gpu.push(begun.elapsed());
    }
    table.times("Rust, the same with GPU memory", &on_gpu, None, None);
    Ok(())
}

/// Each with a connection of its own.
pub(crate) async fn contended(agent: &Agent, table: &Table) -> Result<()> {
    for (what, request, goals) in [
        (CONTENDED, ram(SHARE), Some((Goal::AtLeast(20_000.0), Goal::AtMost(5.0)))),
        ("Rust, 64 clients contend for two GPUs", vram(3 * 1024), None),
    ] {
        let until = Instant::now() + SPAN;
        let mut crowd = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, request) = (agent.client().await?, request.clone());
            crowd.spawn(contend(client, request, until));
        }
        let begun = Instant::now();
        let mut all = Samples::default();
        while let Some(one) = crowd.join_next().await {
            all.extend(one??);
        }
        let pairs = all.len() as f64 / begun.elapsed().as_secs_f64();
        table.figure(what, pairs, "pairs a second", goals.map(|(rate, _)| rate));
        table.times(&format!("{what}: to the grant"), &all, None, goals.map(|(_, worst)| worst));
    }
    Ok(())
}

async fn contend(
    mut client: Client,
    request: memboss_agent_api::v1::AcquireRequest,
    until: Instant,
) -> Result<Samples> {
    let mut taken = Samples::default();
    while Instant::now() < until {
        let begun = Instant::now();
        let held = acquire(&mut client, request.clone()).await?;
        taken.push(begun.elapsed());
        release(&mut client, held).await?;
    }
    Ok(taken)
}
