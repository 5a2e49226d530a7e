//! How a command's answer is printed: for people or for programs. It may not know what is said.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    #[default]
    Text,
    /// One JSON document; amounts in MiB.
    Json,
}

impl Output {
    /// Prints the answer.
    pub(crate) fn say<T: Serialize>(self, answer: &T, text: impl FnOnce() -> String) -> Result<()> {
        let said = match self {
            Self::Text => text(),
            Self::Json => serde_json::to_string_pretty(answer).context("the answer cannot be put in JSON")?,
        };
        match writeln!(std::io::stdout(), "{said}") {
            // Whoever read it has heard enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.context("the answer cannot be written"),
        }
    }
}
