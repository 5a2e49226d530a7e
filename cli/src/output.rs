//! How a command's answer is printed: for people or for programs, with colours or without. It may not know what is said.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    #[default]
    Text,
    /// Tables with more columns.
    Wide,
    /// One JSON document; amounts in MiB.
    Json,
    /// One YAML document; amounts in MiB.
    Yaml,
}

/// Whether colours are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    /// On a terminal, unless its user does not want them.
    On,
    /// Everywhere else.
    Off,
}

impl Colours {
    /// Of the standard output: `NO_COLOR` and `TERM=dumb` turn them off.
    pub(crate) fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !unwanted && !dumb { Self::On } else { Self::Off }
    }
}

impl Output {
    /// Whether it is for people who want to see all.
    pub(crate) fn is_wide(self) -> bool {
        self == Self::Wide
    }

    /// As it is asked for.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Wide => "wide",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }

    /// Whether it is for people.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Wide)
    }

    /// Prints the answer.
    pub(crate) fn say<T: Serialize>(self, answer: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Text | Self::Wide => line(&text()),
            Self::Json => line(&serde_json::to_string_pretty(answer).context("the answer cannot be put in JSON")?),
            Self::Yaml => line(yaml(answer)?.trim_end()),
        }
    }

    /// Tells that something was done: people on the standard error, since nothing was asked; programs as any answer.
    pub(crate) fn done<T: Serialize>(self, did: &T, text: &str) -> Result<()> {
        if self.is_text() {
            aside(text);
            return Ok(());
        }
        self.say(did, String::new)
    }

    /// Prints one of many answers: a line of JSON, or a document of YAML, each. It is a break once nobody reads any more.
    pub(crate) fn say_next<T: Serialize>(self, answer: &T, text: impl FnOnce() -> String) -> Result<ControlFlow<()>> {
        match self {
            Self::Text | Self::Wide => written(&text()),
            Self::Json => written(&serde_json::to_string(answer).context("the answer cannot be put in JSON")?),
            Self::Yaml => written(&format!("---\n{}", yaml(answer)?.trim_end())),
        }
    }
}

fn yaml<T: Serialize>(answer: &T) -> Result<String> {
    serde_saphyr::to_string(answer).context("the answer cannot be put in YAML")
}

/// One line, or a few, on the standard output.
pub(crate) fn line(said: &str) -> Result<()> {
    written(said).map(drop)
}

fn written(said: &str) -> Result<ControlFlow<()>> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{said}").and_then(|()| out.flush()) {
        // Whoever read it has heard enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        written => written.map(ControlFlow::Continue).context("the answer cannot be written"),
    }
}

/// One line for people on the standard error; if it cannot be written there is nobody to tell.
pub(crate) fn aside(said: &str) {
    drop(writeln!(std::io::stderr().lock(), "{said}"));
}
