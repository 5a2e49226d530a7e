//! A workload for tests and the demo: it allocates what it is told on the GPUs that it sees, holds it, heeds notices, and says each step as one line
//! of JSON. It stands for a training job or a model server; it may not know the simulator, only CUDA's interface.
#![expect(clippy::print_stdout, reason = "its output is what others read")]

mod cuda;
mod notice;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cuda::{Card, Failure};
use crate::notice::Response;

/// Allocates GPU memory, holds it, heeds notices.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-workload", version)]
struct Arguments {
    /// How much to allocate on every GPU that is seen (8Gi, 512Mi); nothing without.
    #[arg(long, value_parser = amount)]
    alloc: Option<u64>,
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
    /// How it exits after `hold`.
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
    let mut cards = if arguments.no_gpu { Vec::new() } else { cuda::cards() };
    let env: serde_json::Map<String, Value> = std::env::vars()
        .filter(|(name, _)| name.starts_with("MEMBOSS_"))
        .map(|(name, value)| (name, json!(value)))
        .collect();
    say(&json!({ "event": "binding", "gpus": cards.iter().map(Card::uuid).collect::<Vec<_>>(), "env": env }));
    if let Some(bytes) = arguments.alloc {
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
    hold(arguments, cards).await
}

fn failed(card: &Card, failure: &Failure) -> ExitCode {
    let event = if failure.is_out_of_memory() { "oom" } else { "error" };
    say(&json!({ "event": event, "gpu": card.uuid(), "what": failure.to_string() }));
    ExitCode::from(2)
}

/// Holds until the time is over, a signal, or a notice that ends it.
async fn hold(arguments: Arguments, mut cards: Vec<Card>) -> ExitCode {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        say(&json!({ "event": "error", "what": "signals cannot be watched" }));
        return ExitCode::FAILURE;
    };
    let time = async {
        match arguments.hold.0 {
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
