//! Ends leases that nobody keeps any more, and says which and why: `memboss vram cleanup` and `memboss ram cleanup`. Which those are, the agent says.

use anyhow::Result;
use memboss_agent_api::v1::CleanupRequest;
use serde::Serialize;

use crate::agent::{Sockets, answer};
use crate::ask::Consent;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::{plain, show};

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Cleaned {
    dry_run: bool,
    ended: Vec<plain::Lease>,
}

/// Asks, unless told not to, and has them ended.
pub(crate) async fn run(
    ram_only: bool,
    dry_run: bool,
    consent: &Consent,
    sockets: &Sockets,
    output: Output,
) -> Result<()> {
    let socket = &sockets.node_socket;
    let look = Look { wide: output.is_wide(), colours: Colours::of_stdout() };
    let mut agent = sockets.node().await?;
    if !dry_run && !consent.yes {
        let would = answer(socket, agent.cleanup(CleanupRequest { dry_run: true, ram_only })).await?.ended;
        if !would.is_empty() {
            consent.to(&format!("{}\nThese leases end.", show::leases(&would, look)))?;
        }
    }
    let ended = answer(socket, agent.cleanup(CleanupRequest { dry_run, ram_only })).await?.ended;
    output.say(&Cleaned { dry_run, ended: plain::leases(&ended) }, || {
        if ended.is_empty() {
            let which = if ram_only { "every lease of RAM" } else { "every lease" };
            return format!("nothing is stale: {which} is kept by somebody");
        }
        let word = if dry_run { "would be ended; nothing was changed" } else { "ended" };
        format!("{}\n{} {word}", show::leases(&ended, look), ended.len())
    })
}
