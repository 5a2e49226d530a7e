//! `memboss proxy`: hands the standard streams on to the agent's socket for root, for a command elsewhere that was let into the agent's pod. It may not know
//! what is said, and says nothing itself on the standard output.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use memboss_agent_api::NODE_SOCKET;

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// The agent's socket for root.
    #[arg(long, env = "MEMBOSS_NODE_SOCKET", value_name = "PATH", default_value = NODE_SOCKET)]
    node_socket: PathBuf,
}

pub(crate) fn run(asked: &Proxy) -> Result<()> {
    let at = asked.node_socket.display();
    let mut agent = UnixStream::connect(&asked.node_socket).with_context(|| format!("no agent is at {at}"))?;
    // The standard output itself keeps back what is no whole line.
    let unbuffered = std::io::stdout().as_fd().try_clone_to_owned().context("the standard output cannot be used")?;
    let mut up = agent.try_clone().context("the connection cannot be used twice")?;
    std::thread::spawn(move || {
        // Whoever asked is gone or has done: nobody reads an answer any more.
        drop(pass(std::io::stdin().lock(), &mut up));
        drop(up.shutdown(Shutdown::Both));
    });
    pass(&mut agent, &mut File::from(unbuffered)).with_context(|| format!("the connection to {at} broke"))
}

/// Everything as it comes.
fn pass(mut from: impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut part = [0; 16 * 1024];
    loop {
        match from.read(&mut part)? {
            0 => return Ok(()),
            length => to.write_all(part.get(..length).unwrap_or_default())?,
        }
    }
}
