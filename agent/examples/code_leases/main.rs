//! Measures leases in code on a real agent with simulated GPUs, and prints each figure with its goal. It asserts nothing:
//! a figure tells of the machine as much as of memboss. Run it by `tests/bench.sh leases`. Each argument is a command that measures on the same agent.
#![expect(clippy::print_stdout, reason = "a benchmark speaks")]

mod agent;
mod crowd;
mod moments;
mod pairs;
mod table;

use anyhow::Result;

use self::agent::Agent;
use self::table::Table;

/// The client has one thread, as most programs that lease have.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let table = Table;
    let agent = Agent::start().await?;
    println!("agent: {}", agent.about());
    pairs::uncontended(&agent, &table).await?;
    pairs::contended(&agent, &table).await?;
    moments::next_grant(&agent, &table).await?;
    moments::notice(&agent, &table).await?;
    for command in std::env::args().skip(1) {
        agent.beside(&command).await?;
    }
    crowd::measure(&agent, &table).await?;
    Ok(())
}
