//! The command that `memboss run` runs: started in a process group of its own, with the terminal if there is one, and looked after until it and all that
//! descends from it have ended, also what left its process group. It knows nothing of leases.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};

use super::family::{self, Member};
use super::guard;
use crate::exit::Failure;

/// A running command.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pid: Pid,
    group: Pid,
    to_guard: ChildStdin,
    /// The terminal of this session, if it has one, wherever the standard input comes from.
    tty: Option<File>,
    terminal: Terminal,
    /// Whom this process had begun before, as a shell that became it has: they are none of the command's, nor is what they begin while they are there.
    strangers: BTreeSet<Member>,
    ended: Option<Ended>,
    /// It is killed, and whoever of its family is found from now on too.
    killed: bool,
}

/// Who may read the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// The command.
    Given,
    /// This process, or there is none.
    Kept,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code, or 128 and the signal.
    pub(super) code: u8,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It goes on.
    Runs,
    /// It has ended, and has left some behind, who were asked to end.
    Left,
    /// It has ended, and so has all that descended from it.
    Gone(Ended),
}

impl Child {
    /// Starts it, guarded.
    pub(super) fn start(command: &[OsString], env: &[(&str, String)], kill_after: Duration) -> Result<Self> {
        // What the command leaves behind becomes a child of this process, so that it is found wherever it has gone.
        let strangers = family::below(&family::everybody(), &BTreeSet::from([getpid()])).into_iter().collect();
        set_child_subreaper(true).context("failed to take charge of what the command starts")?;
        let (group, to_guard) = start_guard(kill_after)?;
        let [program, arguments @ ..] = command else {
            return Err(Failure::Usage("no command was given: put it after --".to_owned()).into());
        };
        let started = Command::new(program)
            .args(arguments)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .process_group(group.as_raw())
            .spawn();
        let process = started.map_err(|error| {
            let name = program.display();
            match error.kind() {
                ErrorKind::NotFound => Failure::NoCommand(format!("there is no command {name}")),
                _ => Failure::NotStarted(format!("{name} cannot be started: {error}")),
            }
        })?;
        let pid = Pid::from_raw(i32::try_from(process.id()).context("its pid is no pid")?);
        let tty = File::options().read(true).write(true).open("/dev/tty").ok();
        let terminal = Terminal::Kept;
        let mut child = Self { process, pid, group, to_guard, tty, terminal, strangers, ended: None, killed: false };
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            child.give_terminal();
        }
        Ok(child)
    }

    /// Sends its process group a signal. Whoever is gone needs none.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = killpg(self.group, signal);
    }

    /// Passes a signal on. Whoever stands still would not hear one that asks it to end.
    pub(super) fn pass_on(&self, signal: Signal) {
        self.signal(signal);
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT) {
            self.signal(Signal::SIGCONT);
        }
    }

    /// Asks it to end because its time is up, and all that descends from it.
    pub(super) fn ask_to_end(&mut self) {
        // A guard that is gone cannot be told; there is nothing better to do.
        drop(self.to_guard.write_all(&[guard::ASKED]));
        self.ask_family();
    }

    /// Kills it and all that descends from it; the guard, which is one of its group, too.
    pub(super) fn kill(&mut self) {
        self.killed = true;
        self.signal(Signal::SIGKILL);
        self.family().iter().for_each(|member| member.send(Signal::SIGKILL));
    }

    /// Looks what became of it since it was last looked at.
    pub(super) fn look(&mut self) -> Result<Looked> {
        if self.ended.is_none() {
            let Some(status) = self.process.try_wait().context("failed to look after the command")? else {
                self.look_for_stop();
                return Ok(Looked::Runs);
            };
            self.ended = Some(Ended { code: code(status) });
            self.take_terminal();
            // Those that it left behind have no command to serve from now on.
            self.ask_family();
        }
        let left = self.family();
        if self.killed {
            left.iter().for_each(|member| member.send(Signal::SIGKILL));
        }
        match self.ended {
            Some(ended) if left.is_empty() => Ok(Looked::Gone(ended)),
            _ => Ok(Looked::Left),
        }
    }

    fn ask_family(&self) {
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            self.signal(signal);
            let beside = self.family().into_iter().filter(|member| member.group != self.group);
            beside.for_each(|member| member.send(signal));
        }
    }

    /// All that descends from this process, but for the guard and what has ended; of what has ended and is a child of this process note is taken.
    fn family(&self) -> Vec<Member> {
        let own = getpid();
        let mut everybody = family::everybody();
        everybody.retain(|member| !self.strangers.iter().any(|stranger| stranger.is_same(member)));
        let mut found = family::below(&everybody, &BTreeSet::from([own]));
        for orphan in found.iter().filter(|member| member.ended && member.parent == own && member.pid != self.pid) {
            let _ = waitpid(orphan.pid, Some(WaitPidFlag::WNOHANG));
        }
        found.retain(|member| !member.ended && member.pid != self.group && member.can_be_sent_signals());
        found
    }

    fn look_for_stop(&mut self) {
        let stopped = waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        if let Ok(WaitStatus::Stopped(_, signal)) = stopped {
            self.stopped(signal);
        }
    }

    /// It stopped. One that wanted the terminal gets it, if it is ours to give; one that was stopped at the terminal takes this process along, so that the shell
    /// has both of them as one job.
    fn stopped(&mut self, signal: Signal) {
        let wants_terminal = self.tty.is_some() && matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.give_terminal() {
            self.signal(Signal::SIGCONT);
        } else if wants_terminal || self.terminal == Terminal::Given {
            self.take_terminal();
            let _ = kill(getpid(), Signal::SIGSTOP);
            // Here again once the shell lets both go on.
            self.give_terminal();
            self.signal(Signal::SIGCONT);
        }
    }

    /// Lets the command read the terminal, if this process may.
    fn give_terminal(&mut self) -> bool {
        let Some(tty) = &self.tty else { return false };
        let given = tcgetpgrp(tty).is_ok_and(|holder| holder == getpgrp() || holder == self.group)
            && set_terminal(tty, self.group);
        if given {
            self.terminal = Terminal::Given;
        }
        given
    }

    fn take_terminal(&mut self) {
        if let (Some(tty), Terminal::Given) = (&self.tty, self.terminal)
            && tcgetpgrp(tty).is_ok_and(|holder| holder == self.group)
        {
            set_terminal(tty, getpgrp());
        }
        self.terminal = Terminal::Kept;
    }
}

/// A process that does not hold the terminal is stopped when it takes it, unless it blocks the signal that says so.
fn set_terminal(tty: &File, group: Pid) -> bool {
    let mut stops = SigSet::empty();
    stops.add(Signal::SIGTTOU);
    let blocked = stops.thread_block().is_ok();
    let set = tcsetpgrp(tty, group).is_ok();
    blocked && stops.thread_unblock().is_ok() && set
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Starts the guard and waits until it is there; its group is what the command joins.
fn start_guard(kill_after: Duration) -> Result<(Pid, ChildStdin)> {
    let millis = u64::try_from(kill_after.as_millis()).unwrap_or(u64::MAX);
    // This very program, even if its file has been replaced meanwhile.
    let mut process = Command::new("/proc/self/exe")
        .arg0("memboss")
        .args(["guard", "--kill-after-ms", &millis.to_string()])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to start the command's guard")?;
    let (to_guard, from_guard) = (process.stdin.take(), process.stdout.take());
    let (to_guard, mut from_guard) = to_guard.zip(from_guard).context("the command's guard has no pipes")?;
    let mut said = [0];
    from_guard.read_exact(&mut said).context("the command's guard ended at once")?;
    ensure!(said == [guard::READY], "the command's guard says something unknown");
    Ok((Pid::from_raw(i32::try_from(process.id()).context("its pid is no pid")?), to_guard))
}
