//! Ends leases that nobody keeps any more, and says which and why: `memboss vram cleanup` and `memboss ram cleanup`. Which those are, the agents say.

use anyhow::Result;
use memboss_agent_api::v1::CleanupRequest;
use serde::Serialize;

use crate::agent::{Steered, answer};
use crate::ask::Consent;
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::way::Way;
use crate::{cluster::Placed, plain, show};

/// What was done, or would be.
#[derive(Debug, Serialize)]
struct Cleaned {
    dry_run: bool,
    ended: Vec<plain::Lease>,
}

/// Asks, unless told not to, and has them ended.
pub(crate) async fn run(ram_only: bool, dry_run: bool, consent: &Consent, way: &Way, output: Output) -> Result<()> {
    let look = Look { wide: output.is_wide(), colours: Colours::of_stdout() };
    let mut agents = agents(way).await?;
    if !dry_run && !consent.yes {
        let would = ended(&mut agents, CleanupRequest { dry_run: true, ram_only }).await?;
        if !would.is_empty() {
            consent.to(&format!("{}\nThese leases end.", show::placed(&would, look)))?;
        }
    }
    let ended = ended(&mut agents, CleanupRequest { dry_run, ram_only }).await?;
    output.say(&Cleaned { dry_run, ended: plain::placed(&ended) }, || {
        if ended.is_empty() {
            let which = if ram_only { "every lease of RAM" } else { "every lease" };
            return format!("nothing is stale: {which} is kept by somebody");
        }
        let word = if dry_run { "would be ended; nothing was changed" } else { "ended" };
        format!("{}\n{} {word}", show::placed(&ended, look), ended.len())
    })
}

/// Every agent that is asked, with its node's name where there are several.
async fn agents(way: &Way) -> Result<Vec<(String, Steered)>, Failure> {
    match way {
        Way::Socket(sockets) => Ok(vec![(String::new(), sockets.steer().await?)]),
        Way::Api(server) => {
            let mut agents = Vec::new();
            for node in server.nodes().await? {
                let agent = server.steer(&node).await?;
                agents.push((node, agent));
            }
            match agents.as_slice() {
                [] => Err(Failure::NoAgent("no node has an agent: memboss doctor --by api tells why".to_owned())),
                _ => Ok(agents),
            }
        }
    }
}

async fn ended(agents: &mut [(String, Steered)], ask: CleanupRequest) -> Result<Vec<Placed>, Failure> {
    let mut ended = Vec::new();
    for (node, Steered { agent, at }) in agents {
        let here = answer(at, agent.cleanup(ask)).await?.ended;
        ended.extend(here.into_iter().map(|view| Placed { view, node: node.clone() }));
    }
    Ok(ended)
}
