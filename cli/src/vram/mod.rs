//! `memboss vram`: the GPUs as they stand, emptying them, and ending leases that nobody keeps.

mod drain;
mod screen;
mod top;

use anyhow::Result;
use clap::Subcommand;
use memboss_agent_api::v1::CleanupRequest;
use serde::Serialize;

use crate::agent::{Sockets, answer};
use crate::ask::Consent;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::{plain, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Vram {
    /// The GPUs and the host's RAM: what can be leased, what is, what others use.
    Status,
    /// The same as a live screen, with the leases and their queue. Without a terminal it is printed once.
    Top,
    /// Ends leases that nobody keeps any more, and says which and why (root only).
    Cleanup {
        /// Only tells what would be ended.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Empties GPUs or the whole machine: nothing new is granted there, and who is there is asked to go, with notice (root only).
    Drain(drain::Drain),
}

/// What `cleanup` did, or would do.
#[derive(Debug, Serialize)]
struct Cleaned {
    dry_run: bool,
    ended: Vec<plain::Lease>,
}

pub(crate) async fn run(what: Vram, sockets: &Sockets, output: Output) -> Result<()> {
    match what {
        Vram::Status => {
            let status = sockets.status().await?;
            output.say(&plain::machine(&status), || show::machine(&status, look(output)))
        }
        Vram::Top => top::run(sockets, output).await,
        Vram::Cleanup { dry_run, consent } => cleanup(dry_run, consent, sockets, output).await,
        Vram::Drain(asked) => drain::run(asked, sockets, output).await,
    }
}

fn look(output: Output) -> Look {
    Look { wide: output.is_wide(), colours: Colours::of_stdout() }
}

async fn cleanup(dry_run: bool, consent: Consent, sockets: &Sockets, output: Output) -> Result<()> {
    let socket = &sockets.node_socket;
    let mut agent = sockets.node().await?;
    if !dry_run && !consent.yes {
        let would = answer(socket, agent.cleanup(CleanupRequest { dry_run: true })).await?.ended;
        if !would.is_empty() {
            consent.to(&format!("{}\nThese leases end.", show::leases(&would, look(output))))?;
        }
    }
    let ended = answer(socket, agent.cleanup(CleanupRequest { dry_run })).await?.ended;
    output.say(&Cleaned { dry_run, ended: plain::leases(&ended) }, || {
        if ended.is_empty() {
            return "nothing is stale: every lease is kept by somebody".to_owned();
        }
        let word = if dry_run { "would be ended; nothing was changed" } else { "ended" };
        format!("{}\n{} {word}", show::leases(&ended, look(output)), ended.len())
    })
}
