//! Asking before something is done that cannot be taken back. It may not do it.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::exit::Failure;

/// The answer that was given in advance.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Consent {
    /// Does not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

impl Consent {
    /// Goes on only if whoever sits at the terminal says so, or has said so in advance.
    pub(crate) fn to(self, what: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Err(Failure::Usage(format!("{what} Nobody can be asked here: say --yes")).into());
        }
        let mut out = std::io::stderr();
        write!(out, "{what}\nGo on? [y/N] ").and_then(|()| out.flush()).context("failed to ask")?;
        let mut answer = String::new();
        input.read_line(&mut answer).context("failed to read the answer")?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Failure::Undone("nothing was done".to_owned()).into())
        }
    }
}
