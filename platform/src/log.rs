//! Sets up the process's log on stderr, once. The environment variable `MEMBOSS_LOG` overrules the filter given.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// The environment variable that overrules the filter, in the syntax `info,memboss_agent=debug`.
pub const FILTER_VARIABLE: &str = "MEMBOSS_LOG";

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people at a terminal.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for Format {
    type Err = Failure;

    fn from_str(given: &str) -> Result<Self, Failure> {
        match given {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Failure::ParseFormat { given: given.to_owned() }),
        }
    }
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Neither `text` nor `json`.
    #[error("failed to read the log format {given:?}: use \"text\" or \"json\"")]
    ParseFormat {
        /// What was given.
        given: String,
    },
    /// The filter has a syntax error.
    #[error("failed to read the log filter {given:?}: use a level (\"info\") or \"level,crate=level\"")]
    ParseFilter {
        /// What was given.
        given: String,
        /// Where it went wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A log was set up before.
    #[error("failed to set up the log: it is set up already")]
    Install(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the process's log to stderr in `format`, filtered by `MEMBOSS_LOG` if set, else by `filter`.
///
/// # Errors
/// [`Failure`] for a bad filter, or when called a second time.
pub fn init(format: Format, filter: &str) -> Result<(), Failure> {
    let chosen = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| filter.to_owned());
    let directives =
        EnvFilter::try_new(&chosen).map_err(|source| Failure::ParseFilter { given: chosen.clone(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(directives)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(Failure::Install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_reads_back_as_it_is_written() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        assert!("xml".parse::<Format>().unwrap_err().to_string().contains("\"xml\""));
    }
}
