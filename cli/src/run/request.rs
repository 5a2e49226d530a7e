//! What `memboss run` is asked on its command line, and the request that it becomes.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args};
use memboss_agent_api::v1::{AcquireRequest, SlotRequest};
use memboss_core::{Class, Mib, Percent};
use nix::sys::signal::Signal;

use crate::exit::Failure;
use crate::size;

/// No holder is given a longer notice.
const LONGEST_NOTICE: Duration = Duration::from_secs(300);

/// Memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// So much.
    Fixed(Mib),
    /// So much of what can be leased of it.
    Share(Percent),
}

/// What is sent to the command when it has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeSignal {
    /// That signal.
    Send(Signal),
    /// Nothing: it hears of it in another way.
    Nothing,
}

#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("memory").required(true).multiple(true).args(["vram", "ram"])))]
pub(crate) struct Run {
    /// Memory on each GPU: 8Gi, 8000M, 8GB, or a share of what can be leased (50%).
    #[arg(long, value_name = "SIZE", value_parser = amount, allow_hyphen_values = true)]
    vram: Option<Amount>,
    /// So many GPUs, each with that memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), requires = "vram")]
    gpus: u8,
    /// Host RAM, granted in the same step.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    ram: Option<Mib>,
    /// urgent, high, normal, low or batch: who gives way to whom.
    #[arg(long, default_value = "normal")]
    class: Class,
    /// Only a GPU whose model contains this; may be repeated.
    #[arg(long = "model", value_name = "TEXT", requires = "vram")]
    models: Vec<String>,
    /// Only this GPU, by index or UUID; may be repeated.
    #[arg(long = "gpu", value_name = "GPU", requires = "vram")]
    pub(super) only: Vec<String>,
    /// The emptiest GPU rather than the fullest that will do.
    #[arg(long, requires = "vram")]
    spread: bool,
    /// Waits so long at most (5m, 1h). Without: as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "no_wait")]
    pub(super) timeout: Option<Duration>,
    /// Does not wait at all.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// The time that it wishes for before it has to go, at most 5m. Without: what the class of whoever needs the memory gives.
    #[arg(long, value_name = "TIME", value_parser = notice)]
    notice: Option<Duration>,
    /// Is not asked to go for so long after its grant, at most what its class gives.
    #[arg(long, value_name = "TIME", value_parser = time)]
    protection: Option<Duration>,
    /// Sent to the command's process group when it has to go, so that it can save its work; none: nothing is.
    #[arg(long, value_name = "NAME", default_value = "TERM", value_parser = notice_signal)]
    pub(super) notice_signal: NoticeSignal,
    /// What is left of the command is killed so long after its lease has ended; where others need the memory the agent waits no longer than 10s.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(super) kill_after: Duration,
    /// The lease's name (user-UID/NAME). Without: one that nobody else has.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(super) name: Option<String>,
    /// Shown to people. Without: the command's name.
    #[arg(long)]
    label: Option<String>,
    /// Leaves CUDA_VISIBLE_DEVICES as it is.
    #[arg(long)]
    pub(super) no_env: bool,
    /// Only tells what would come of it; starts nothing. Ends with 75 where it would have to wait.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Says nothing while it waits and when it is granted; notices are told all the same.
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// The command and its arguments.
    #[arg(last = true, required_unless_present = "dry_run", value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

fn amount(text: &str) -> Result<Amount, String> {
    match text.strip_suffix('%') {
        Some(number) => {
            let percent = number.parse::<u64>().map_err(|_| format!("{text:?} is no share: 1% to 100% is"))?;
            Percent::new(percent).map(Amount::Share).map_err(|wrong| wrong.to_string())
        }
        None => size::parse(text).map(Amount::Fixed),
    }
}

/// A time that is not none.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("no time at all: 30s and 5m are times".to_owned()),
        Ok(time) => Ok(time),
        Err(wrong) => Err(format!("{wrong}: 30s and 5m are times")),
    }
}

fn notice(text: &str) -> Result<Duration, String> {
    let wish = time(text)?;
    if wish > LONGEST_NOTICE { Err("nobody is given more than 5m".to_owned()) } else { Ok(wish) }
}

fn notice_signal(text: &str) -> Result<NoticeSignal, String> {
    let name = text.to_uppercase();
    if name == "NONE" {
        return Ok(NoticeSignal::Nothing);
    }
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let known = name.parse().map(NoticeSignal::Send);
    known.map_err(|_| format!("{text:?} is no signal: TERM, INT, USR1 and their like are, and none"))
}

fn millis(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1))
}

impl Run {
    /// The request, under a name that makes it one lease however often it is sent.
    pub(super) fn request(&self, uuids: Vec<String>) -> AcquireRequest {
        let slot = |amount: Amount| match amount {
            Amount::Fixed(memory) => SlotRequest { memory_mib: memory.mib(), percent: 0 },
            Amount::Share(percent) => SlotRequest { memory_mib: 0, percent: u32::from(percent.get()) },
        };
        AcquireRequest {
            request_id: self.name.clone().unwrap_or_else(own_name),
            slots: self.vram.map(|amount| vec![slot(amount); usize::from(self.gpus)]).unwrap_or_default(),
            ram_mib: self.ram.map_or(0, Mib::mib),
            class: self.class.name().to_owned(),
            timeout_ms: millis(self.timeout),
            no_wait: self.no_wait,
            models: self.models.clone(),
            uuids,
            spread: self.spread,
            notice_ms: millis(self.notice),
            protection_ms: millis(self.protection),
            label: self.label.clone().unwrap_or_else(|| self.command_name()),
            ..AcquireRequest::default()
        }
    }

    /// The name of what the command runs, without what a terminal would obey.
    fn command_name(&self) -> String {
        let path = self.command.first().map(std::path::Path::new);
        let name = path.and_then(|path| path.file_name()).map(|name| name.to_string_lossy()).unwrap_or_default();
        name.chars().filter(|c| !c.is_control()).take(40).collect()
    }

    /// What is asked, in words.
    pub(super) fn wish(&self) -> String {
        let gpus = self.vram.map(|amount| {
            let each = match amount {
                Amount::Fixed(memory) => memory.to_string(),
                Amount::Share(percent) => format!("{}%", percent.get()),
            };
            if self.gpus == 1 { format!("{each} of a GPU") } else { format!("{each} of each of {} GPUs", self.gpus) }
        });
        let ram = self.ram.map(|ram| format!("{ram} of RAM"));
        gpus.into_iter().chain(ram).collect::<Vec<_>>().join(" and ")
    }

    /// The command's name, if it can be found: nobody should wait an hour to hear that it is not there.
    pub(super) fn find_command(&self) -> Result<(), Failure> {
        let Some(name) = self.command.first() else { return Ok(()) };
        let path = std::path::Path::new(name);
        let there = if path.components().count() > 1 {
            path.exists()
        } else {
            std::env::var_os("PATH").is_none_or(|paths| std::env::split_paths(&paths).any(|at| at.join(path).exists()))
        };
        if there { Ok(()) } else { Err(Failure::NoCommand(format!("there is no command {}", path.display()))) }
    }
}

/// Of this process and this moment.
fn own_name() -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("run-{}-{:x}", std::process::id(), since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_times_and_signals_are_read_as_people_write_them() {
        assert_eq!(amount("8Gi"), Ok(Amount::Fixed(Mib::from_mib(8192))));
        assert_eq!(amount("50%"), Ok(Amount::Share(Percent::new(50).unwrap())));
        for wrong in ["0%", "101%", "-1%", "half%", "", "8X"] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(notice("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["6m", "0s", "soon", "30"] {
            assert!(notice(wrong).is_err(), "{wrong}");
        }
        for right in ["USR1", "usr1", "SIGUSR1"] {
            assert_eq!(notice_signal(right), Ok(NoticeSignal::Send(Signal::SIGUSR1)), "{right}");
        }
        assert_eq!(notice_signal("none"), Ok(NoticeSignal::Nothing));
        assert!(notice_signal("LOUD").is_err_and(|why| why.contains("USR1")));
    }
}
