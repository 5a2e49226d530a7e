//! Measures leases in code on a real agent with simulated GPUs, beside the PyPI package `reslock`, and prints each figure with its goal. It asserts nothing:
//! a figure tells of the machine as much as of memboss. Run it by `tests/bench.sh leases`.
#![expect(clippy::print_stdout, reason = "a benchmark speaks")]

mod agent;
mod crowd;
mod moments;
mod others;
mod pairs;
mod table;

use anyhow::Result;

use self::agent::Agent;
use self::table::Table;

/// The client has one thread, as most programs that lease have.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut table = Table::default();
    let agent = Agent::start().await?;
    println!("agent: {}", agent.about());
    pairs::uncontended(&agent, &mut table).await?;
    pairs::contended(&agent, &mut table).await?;
    moments::next_grant(&agent, &mut table).await?;
    moments::notice(&agent, &mut table).await?;
    others::measure(&agent, &mut table)?;
    crowd::measure(&agent, &mut table).await?;
    table.print();
    Ok(())
}
