//! A workload for tests and the demo: it allocates what it is told on the GPUs that it sees, holds it, heeds notices, and says each step as one line
//! of JSON. It stands for a training job or a model server; it may not know the simulator, only CUDA's interface.
#![expect(clippy::print_stdout, reason = "its output is what others read")]

mod cuda;
mod notice;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cuda::{Card, Failure};
use crate::notice::Response;

/// Allocates GPU memory, holds it, heeds notices.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-workload", version)]
struct Arguments {
    /// How much to allocate on every GPU that is seen (8Gi, 512Mi). Nothing without, and nothing for a share (50%), which only a lease can size.
    #[arg(long)]
    alloc: Option<Alloc>,
    /// How much host RAM to fill (8Gi, 512Mi).
    #[arg(long, value_parser = amount)]
    ram: Option<u64>,
    /// How much more host RAM to fill each second (24Mi), once what `--ram` says is filled.
    #[arg(long, value_parser = amount)]
    grow: Option<u64>,
    /// Up to how much it grows in all.
    #[arg(long, value_parser = amount, requires = "grow", default_value = "1Gi")]
    grow_to: u64,
    /// A file to write and then read, so that it lies in the page cache as one that is used does.
    #[arg(long, value_name = "PATH", requires = "file_size")]
    file: Option<PathBuf>,
    /// How large it is (2Gi).
    #[arg(long, value_parser = amount, requires = "file")]
    file_size: Option<u64>,
    /// How long to hold it: `forever`, or seconds (30s).
    #[arg(long, default_value = "forever", value_parser = span)]
    hold: Hold,
    /// Does not touch the GPU.
    #[arg(long)]
    no_gpu: bool,
    /// What to do when asked to give memory back: leave, ignore, shrink:12Gi, offload:12Gi (what it keeps on each GPU).
    #[arg(long, default_value = "leave")]
    on_notice: Response,
    /// Goes on when it gets SIGTERM.
    #[arg(long)]
    ignore_term: bool,
    /// Ends after so long (5s), whatever `--hold` says.
    #[arg(long, value_parser = span)]
    exit_after: Option<Hold>,
    /// How it exits after `--hold` or `--exit-after`.
    #[arg(long, default_value_t = 0)]
    exit_code: u8,
}

/// `8Gi`, `512Mi`: bytes.
pub(crate) fn amount(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not an amount of memory: write 8Gi or 512Mi");
    let (number, shift) = match (text.strip_suffix("Gi"), text.strip_suffix("Mi")) {
        (Some(number), _) => (number, 30),
        (_, Some(number)) => (number, 20),
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(bad)
}

/// What to allocate on each GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Alloc {
    /// So many bytes.
    Bytes(u64),
    /// Nothing: what was said is empty or a share.
    Skip(String),
}

impl FromStr for Alloc {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let share = |number: &str| number.parse::<u8>().is_ok_and(|percent| (1..=100).contains(&percent));
        match text.strip_suffix('%') {
            Some(number) if share(number) => Ok(Self::Skip(text.to_owned())),
            None if text.is_empty() => Ok(Self::Skip(String::new())),
            _ => Ok(Self::Bytes(amount(text)?)),
        }
    }
}

/// How long memory is held: for ever, if no time is said.
#[derive(Clone, Copy, Debug)]
struct Hold(Option<Duration>);

fn span(text: &str) -> Result<Hold, String> {
    if text == "forever" {
        return Ok(Hold(None));
    }
    let seconds = text
        .strip_suffix('s')
        .unwrap_or(text)
        .parse::<u64>()
        .map_err(|_| format!("{text:?}: write forever, or seconds such as 30s"))?;
    Ok(Hold(Some(Duration::from_secs(seconds))))
}

/// Says one step.
pub(crate) fn say(step: &Value) {
    println!("{step}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before the first word: whoever has read one may send a signal, and a container's first process ignores those that it does not watch.
    let (Ok(term), Ok(interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        say(&json!({ "event": "error", "what": "signals cannot be watched" }));
        return ExitCode::FAILURE;
    };
    let mut cards = if arguments.no_gpu { Vec::new() } else { cuda::cards() };
    let env: serde_json::Map<String, Value> = std::env::vars()
        .filter(|(name, _)| name.starts_with("MEMBOSS_"))
        .map(|(name, value)| (name, json!(value)))
        .collect();
    say(&json!({ "event": "binding", "gpus": cards.iter().map(Card::uuid).collect::<Vec<_>>(), "env": env }));
    if let Some(Alloc::Skip(said)) = &arguments.alloc {
        say(&json!({ "event": "skipped", "alloc": said }));
    }
    if let Some(Alloc::Bytes(bytes)) = arguments.alloc {
        if cards.is_empty() {
            say(&json!({ "event": "error", "what": "there is no GPU to allocate on" }));
            return ExitCode::from(3);
        }
        for card in &mut cards {
            if let Err(failure) = card.hold(bytes) {
                return failed(card, &failure);
            }
            say(&json!({ "event": "allocated", "gpu": card.uuid(), "mib": bytes >> 20 }));
        }
    }
    let ram = arguments.ram.map(fill);
    if let (Some(path), Some(size)) = (&arguments.file, arguments.file_size)
        && let Err(error) = cache(path, size)
    {
        say(&json!({ "event": "error", "what": format!("{}: {error}", path.display()) }));
        return ExitCode::from(4);
    }
    let growth = arguments
        .grow
        .map(|step| tokio::spawn(grow(step, arguments.grow_to.saturating_sub(arguments.ram.unwrap_or_default()))));
    let code = hold(arguments, cards, term, interrupt).await;
    drop(growth);
    drop(ram);
    code
}

/// So many bytes of host RAM that are really there: pages that nobody has written to take nothing.
fn fill(bytes: u64) -> Vec<u8> {
    let ram = vec![1; usize::try_from(bytes).unwrap_or(usize::MAX)];
    say(&json!({ "event": "filled", "mib": bytes >> 20 }));
    ram
}

/// Writes a file, to the disk, and reads it twice: pages that are read more than once count as in use.
fn cache(path: &Path, size: u64) -> io::Result<()> {
    let piece = vec![1; 1 << 20];
    let mut file = File::create(path)?;
    for _ in 0..size >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    drop(file);
    for _ in 0..2 {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    say(&json!({ "event": "cached", "mib": size >> 20 }));
    Ok(())
}

/// Fills a step more each second, up to so many bytes.
async fn grow(step: u64, most: u64) {
    let mut kept = Vec::new();
    let mut filled = 0;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    while filled < most {
        seconds.tick().await;
        kept.push(fill(step));
        filled += step;
    }
    std::future::pending::<()>().await;
}

fn failed(card: &Card, failure: &Failure) -> ExitCode {
    let event = if failure.is_out_of_memory() { "oom" } else { "error" };
    say(&json!({ "event": event, "gpu": card.uuid(), "what": failure.to_string() }));
    ExitCode::from(2)
}

/// Holds until the time is over, a signal, or a notice that ends it.
async fn hold(arguments: Arguments, mut cards: Vec<Card>, mut term: Signal, mut interrupt: Signal) -> ExitCode {
    let time = async {
        match arguments.exit_after.unwrap_or(arguments.hold).0 {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(time);
    let heed = notice::heed(arguments.on_notice, &mut cards);
    tokio::pin!(heed);
    loop {
        tokio::select! {
            () = &mut time => return ExitCode::from(arguments.exit_code),
            () = &mut heed => return ExitCode::SUCCESS,
            _ = term.recv() => {
                say(&json!({ "event": "term", "ignored": arguments.ignore_term }));
                if !arguments.ignore_term {
                    return ExitCode::SUCCESS;
                }
            }
            _ = interrupt.recv() => return ExitCode::SUCCESS,
        }
    }
}
