//! `memboss vram`: the GPUs as they stand, emptying them, and ending leases that nobody keeps.

mod drain;
mod screen;
mod top;

use anyhow::Result;
use clap::Subcommand;

use crate::agent::Sockets;
use crate::ask::Consent;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::{cleanup, plain, show};

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

pub(crate) async fn run(what: Vram, sockets: &Sockets, output: Output) -> Result<()> {
    match what {
        Vram::Status => {
            let status = sockets.status().await?;
            output.say(&plain::machine(&status), || show::machine(&status, look(output)))
        }
        Vram::Top => top::run(sockets, output).await,
        Vram::Cleanup { dry_run, consent } => cleanup::run(false, dry_run, &consent, sockets, output).await,
        Vram::Drain(asked) => drain::run(asked, sockets, output).await,
    }
}

fn look(output: Output) -> Look {
    Look { wide: output.is_wide(), colours: Colours::of_stdout() }
}
