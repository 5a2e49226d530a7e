//! `memboss vram`: the GPUs as they stand, emptying them, and ending leases that nobody keeps; of this machine, or of a cluster's nodes.

mod drain;
mod screen;
mod top;

use anyhow::Result;
use clap::Subcommand;

use crate::ask::Consent;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::way::{Way, Where};
use crate::{cleanup, plain, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Vram {
    /// The GPUs and the host's RAM: what can be leased, what is, what others use. By the API server, of every node: a list, in JSON too.
    Status,
    /// The same as a live screen, with the leases and their queue. Without a terminal it is printed once.
    Top,
    /// Ends leases that nobody keeps any more, and says which and why (root only; by the API server: pods/exec on the agents).
    Cleanup {
        /// Only tells what would be ended.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Empties GPUs or the whole machine: nothing new is granted there, and who is there is asked to go, with notice (root only). By the API server it is the wish
    /// of a node's MemoryNode, which lasts until it is undone (who may patch those).
    Drain(drain::Drain),
}

pub(crate) async fn run(what: Vram, asked: &Where, output: Output) -> Result<()> {
    let way = asked.way(output).await?;
    match what {
        Vram::Status => status(&way, output).await,
        Vram::Top => top::run(way, output).await,
        Vram::Cleanup { dry_run, consent } => cleanup::run(false, dry_run, &consent, &way, output).await,
        Vram::Drain(asked) => drain::run(asked, &way, output).await,
    }
}

async fn status(way: &Way, output: Output) -> Result<()> {
    let machines = match way {
        Way::Socket(sockets) => {
            let status = sockets.status().await?;
            return output.say(&plain::machine(&status), || show::machine(&status, look(output)));
        }
        // Who holds is told where all is told: not everybody who may see nodes may see leases.
        Way::Api(server) if output.is_wide() => server.picture().await?.machines,
        Way::Api(server) => server.machines().await?,
    };
    let plain: Vec<plain::Machine> = machines.iter().map(plain::machine).collect();
    output.say(&plain, || show::machines(&machines, look(output)))
}

fn look(output: Output) -> Look {
    Look { wide: output.is_wide(), colours: Colours::of_stdout() }
}
