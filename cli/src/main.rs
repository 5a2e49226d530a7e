//! `memboss` on a machine: leases of GPU memory and RAM (by the agent's sockets), host RAM and what is wrong with the machine (by itself). The same of a
//! cluster from anywhere, by its API server.

mod agent;
mod ask;
mod cleanup;
mod cluster;
mod docs;
mod doctor;
mod exit;
mod gpus;
mod lease;
mod output;
mod plain;
mod proxy;
mod ram;
mod run;
mod show;
mod show_ram;
mod size;
mod vram;
mod way;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

/// The memory of this machine, or of a cluster: leases of GPU memory and RAM, by five classes, with queueing and preemption. On a machine where an agent runs its
/// socket is asked; elsewhere, and as `kubectl memboss`, the API server.
#[derive(Debug, Parser)]
#[command(name = "memboss", version, after_help = exit::help())]
struct Arguments {
    #[command(flatten)]
    at: way::Where,
    /// The answer's form.
    #[arg(long, short, value_enum, default_value_t, global = true, help_heading = agent::EVERYWHERE)]
    output: output::Output,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// GPU memory.
    #[command(subcommand)]
    Vram(vram::Vram),
    /// Leases.
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Host RAM; of this machine it needs no agent, but for `cleanup`.
    #[command(subcommand)]
    Ram(ram::Ram),
    /// Leases memory and runs a command with it; the lease ends with the command.
    #[command(long_about = RUN)]
    Run(Box<run::Run>),
    /// Looks what is wrong with this machine, or with a cluster, and says what to do.
    Doctor(doctor::Doctor),
    /// Prints what a shell needs to complete these words: memboss completion bash > /etc/bash_completion.d/memboss
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Words that are not for people: no help, manual or completion tells of them.
#[derive(Debug, Parser)]
#[command(name = "memboss")]
enum Own {
    /// Writes the manual of the command line.
    Docs(docs::Docs),
    /// Ends a command whose `memboss run` is gone.
    Guard(run::guard::Guard),
    /// Hands its standard streams on to the agent.
    Proxy(proxy::Proxy),
}

const RUN: &str = "\
Leases memory and runs a command with it; the lease ends with the command.

While it waits it says on the standard error what place it has and why, whenever that changes. The command gets CUDA_VISIBLE_DEVICES with the UUIDs of the \
GPUs that were granted, and MEMBOSS_LEASE, MEMBOSS_CLASS, MEMBOSS_GPUS, MEMBOSS_VRAM_MIB (one number for each GPU), MEMBOSS_RAM_MIB and MEMBOSS_SOCKET. \
It inherits the standard streams, and has a process group of its own, to which signals are passed on. Its exit code is the command's.

When somebody of a higher class needs the memory, it says who, why and by when, and sends the process group --notice-signal, so that the command can save \
its work and go. When the time is up the command is asked to end (SIGTERM), and what is left of it is killed after --kill-after. Processes that the command \
leaves behind in its process group are ended too.

If this program itself is killed (-9), its lease ends at once, and a guard, which leads the process group, ends the command in the same way: asked first, killed \
after --kill-after. Only what left the process group (setsid) goes on; what that uses counts as used by others. When the agent restarts the command does not notice: \
the lease is taken up again.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let own = std::env::args_os().nth(1).is_some_and(|word| word == "docs" || word == "guard" || word == "proxy");
    let done = if own { run_own(&Own::parse()) } else { run(Arguments::parse()).await };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::aside(&format!("error: {}", sentence(&error)));
            exit::code(&error)
        }
    }
}

/// An error with its causes on one line, each said once.
fn sentence(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push(cause);
        }
    }
    said.join(": ")
}

async fn run(mut arguments: Arguments) -> Result<u8> {
    arguments.at.cluster.called_as(&std::env::args_os().next().unwrap_or_default());
    let (at, output) = (&arguments.at, arguments.output);
    match arguments.what {
        What::Vram(what) => vram::run(what, at, output).await?,
        What::Lease(what) => lease::run(what, at, output).await?,
        What::Ram(what) => return ram::run(what, at, output).await,
        What::Run(asked) => {
            at.only_here("memboss run")?;
            return run::run(*asked, &at.sockets, output).await;
        }
        What::Doctor(asked) => doctor::run(&asked, at, output).await?,
        What::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "memboss", &mut text);
            output::line(String::from_utf8_lossy(&text).trim_end())?;
        }
    }
    Ok(0)
}

fn run_own(what: &Own) -> Result<u8> {
    match what {
        Own::Docs(asked) => docs::run(asked, &Arguments::command())?,
        Own::Guard(asked) => run::guard::run(*asked)?,
        Own::Proxy(asked) => proxy::run(asked)?,
    }
    Ok(0)
}
