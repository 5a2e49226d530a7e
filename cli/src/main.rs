//! `memboss` on a machine: what the agent's ledger holds and why a lease stands where it stands (by the agent's socket), and host RAM (by itself).

mod output;
mod plain;
mod ram;
mod show;
mod show_ram;
mod size;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use memboss_agent_api::NODE_SOCKET;
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{ExplainRequest, StatusRequest, StatusResponse};
use tonic::transport::Channel;

/// The memory of this machine: leases of GPU memory, and host RAM.
#[derive(Debug, Parser)]
#[command(name = "memboss", version)]
struct Arguments {
    /// The agent's socket for the node's own root.
    #[arg(long, env = "MEMBOSS_NODE_SOCKET", default_value = NODE_SOCKET, global = true)]
    socket: PathBuf,
    /// The answer's form.
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: output::Output,
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
    /// Host RAM; needs no agent.
    #[command(subcommand)]
    Ram(ram::Ram),
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

/// Exit codes: 0 done, 1 it could not be done, 2 wrong arguments.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even that cannot be written there is nobody to tell.
            drop(writeln!(std::io::stderr(), "error: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes on one line, each said once.
fn sentence(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if cause != "transport error" && !said.contains(&cause) {
            said.push(cause);
        }
    }
    said.join(": ")
}

async fn run(arguments: Arguments) -> Result<()> {
    let (socket, output) = (&arguments.socket, arguments.output);
    match arguments.what {
        What::Vram(Vram::Status) => {
            let status = status(socket).await?;
            output.say(&plain::gpus(&status), || show::gpus(&status))
        }
        What::Lease(Lease::List) => {
            let status = status(socket).await?;
            output.say(&plain::leases(&status), || show::leases(&status))
        }
        What::Lease(Lease::Why { lease }) => {
            let told = agent(socket).await?.explain(ExplainRequest { lease }).await;
            let lines = told.map_err(|refused| anyhow::anyhow!("{}", refused.message()))?.into_inner().lines;
            output.say(&lines, || lines.join("\n"))
        }
        What::Ram(what) => ram::run(what, output).await,
    }
}

async fn agent(socket: &Path) -> Result<NodeClient<Channel>> {
    Ok(NodeClient::new(memboss_agent_api::connect(socket).await?))
}

async fn status(socket: &Path) -> Result<StatusResponse> {
    let told = agent(socket).await?.status(StatusRequest {}).await;
    Ok(told.context("the agent did not tell its state")?.into_inner())
}
