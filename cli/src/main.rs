//! `memboss` on a node: what the agent's ledger holds, and why a lease stands where it stands. It asks the agent by its socket and changes nothing.
#![expect(clippy::print_stdout, reason = "a command speaks to its caller")]

mod show;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use memboss_agent_api::NODE_SOCKET;
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{ExplainRequest, StatusRequest};

/// The memory leases of this node.
#[derive(Debug, Parser)]
#[command(name = "memboss", version)]
struct Arguments {
    /// The agent's socket for the node's own root.
    #[arg(long, env = "MEMBOSS_NODE_SOCKET", default_value = NODE_SOCKET, global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// GPU memory.
    #[command(subcommand)]
    Vram(Vram),
    /// Leases.
    #[command(subcommand)]
    Lease(Lease),
}

#[derive(Debug, Subcommand)]
enum Vram {
    /// The GPUs: what can be leased, what is, what others use.
    Status,
}

#[derive(Debug, Subcommand)]
enum Lease {
    /// All leases that the agent knows.
    List,
    /// Why a lease (namespace/name) stands where it stands.
    Why {
        /// namespace/name.
        lease: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let channel = memboss_agent_api::connect(&arguments.socket).await?;
    let mut agent = NodeClient::new(channel);
    match arguments.what {
        What::Vram(Vram::Status) => {
            let status = agent.status(StatusRequest {}).await.context("the agent did not tell its state")?.into_inner();
            println!("{}", show::gpus(&status));
        }
        What::Lease(Lease::List) => {
            let status = agent.status(StatusRequest {}).await.context("the agent did not tell its state")?.into_inner();
            println!("{}", show::leases(&status));
        }
        What::Lease(Lease::Why { lease }) => {
            let told = agent.explain(ExplainRequest { lease }).await;
            let lines = told.map_err(|refused| anyhow::anyhow!("{}", refused.message()))?.into_inner().lines;
            println!("{}", lines.join("\n"));
        }
    }
    Ok(())
}
