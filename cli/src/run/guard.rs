//! The guard of a command: a small process that leads the command's process group, hears when `memboss run` is gone, however it went, and ends what is left of
//! the group. Without it a command would go on without a lease when `memboss run` is killed. It knows no agent and no lease.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgrp, getpid};

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
    if !others(group) {
        return;
    }
    if !was_asked {
        let _ = killpg(group, Signal::SIGTERM);
        // One that was stopped could not go.
        let _ = killpg(group, Signal::SIGCONT);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if !others(group) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
    // Itself too.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Whether anybody else is in the group. What ended and was not yet taken note of is nobody. Where that cannot be seen somebody is.
fn others(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let own = getpid();
    processes.flatten().any(|entry| {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        pid.is_some_and(|pid| pid != own.as_raw() && lives_in(pid, group))
    })
}

fn lives_in(pid: i32, group: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // After the program's name, which may contain anything: its state, its parent, its group.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    let state = fields.next();
    let its = fields.nth(1).and_then(|field| field.parse::<i32>().ok());
    its == Some(group.as_raw()) && !matches!(state, Some("Z" | "X"))
}
