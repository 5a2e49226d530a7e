//! The guard of a command: a small process that leads the command's process group, hears when `memboss run` is gone, however it went, and ends what is left of
//! the group and of those that descend from it. Without it a command would go on without a lease when `memboss run` is killed. It knows no agent and no lease.
//! What had left the group and lost its parent before that is not found: only `memboss run` itself knows of it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, getpid};

use super::family::{self, Member};

/// Said when it is there.
pub(super) const READY: u8 = b'r';
/// Said to it when the command has been asked to go because its time is up: it has no more of it when `memboss run` is gone too.
pub(super) const ASKED: u8 = b'a';

/// How often it looks whether all have gone.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Guard {
    /// What is left is killed after so long, in milliseconds.
    #[arg(long)]
    pub(super) kill_after_ms: u64,
}

/// Guards the group that it leads, until it is alone in it.
pub(crate) fn run(asked: Guard) -> Result<()> {
    // What is meant for the command reaches the whole group; only SIGKILL ends its guard.
    set_name(c"memboss-guard").context("failed to take its name")?;
    SigSet::all().thread_block().context("failed to block signals")?;
    let mut out = std::io::stdout();
    out.write_all(&[READY]).and_then(|()| out.flush()).context("failed to say that it is there")?;
    let mut said = Vec::new();
    // However reading ends, whoever could say more is gone.
    drop(std::io::stdin().read_to_end(&mut said));
    end_group(said.contains(&ASKED), Duration::from_millis(asked.kill_after_ms));
    Ok(())
}

fn end_group(was_asked: bool, patience: Duration) {
    let group = getpgrp();
    let mut known = BTreeSet::new();
    if !others(group, &mut known) {
        return;
    }
    if !was_asked {
        // One that was stopped could not go.
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            let _ = killpg(group, signal);
            known.iter().filter(|member| member.group != group).for_each(|member| member.send(signal));
        }
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if !others(group, &mut known) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
    known.iter().for_each(|member| member.send(Signal::SIGKILL));
    // Itself too.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Whether anybody else is in the group, or descends from whoever was seen there. What ended and was not yet taken note of is nobody.
fn others(group: Pid, known: &mut BTreeSet<Member>) -> bool {
    let (all, own) = (family::everybody(), getpid());
    known.retain(|member| member.is_there() && member.can_be_sent_signals());
    known.extend(all.iter().filter(|member| member.group == group && member.pid != own && !member.ended));
    let first = known.iter().map(|member| member.pid).collect();
    known.extend(family::below(&all, &first).into_iter().filter(|member| !member.ended));
    !known.is_empty()
}
