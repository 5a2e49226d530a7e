//! How `memboss` ends: one exit code for each way, the same for ever, and the errors that lead to them. It may not print.

use std::process::ExitCode;

use clap::builder::StyledStr;

/// Every code, in one table: for the manual and for `--help`.
pub(crate) const TABLE: [(&str, &str); 8] = [
    ("0", "done; of `run`: the command ended well"),
    ("1", "it could not be done, the answer was no, or `doctor` found something that fails"),
    ("2", "wrong usage; also: nobody can be asked here, and --yes was not said"),
    ("69", "no agent answers at the socket, or no API server"),
    ("75", "not granted: no room and --no-wait, the time is over, or it could never be"),
    ("77", "not permitted: only root may, or the lease is another's"),
    ("126, 127", "of `run`: the command cannot be started, or there is none of that name"),
    (
        "128+n",
        "of `run`: the command, or `run` while it waited, was ended by signal n; any other code is the command's own",
    ),
];

/// What went wrong, as far as the exit code tells it apart. The texts are whole sentences.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The agent refused, or failed.
    #[error("{0}")]
    Undone(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers.
    #[error("{0}")]
    NoAgent(String),
    /// Not now, or not here.
    #[error("{0}")]
    NotGranted(String),
    /// Not by this user.
    #[error("{0}")]
    NotPermitted(String),
    /// The command of `run` is there and does not start.
    #[error("{0}")]
    NotStarted(String),
    /// There is no such command.
    #[error("{0}")]
    NoCommand(String),
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Undone(_) => 1,
            Self::Usage(_) => 2,
            Self::NoAgent(_) => 69,
            Self::NotGranted(_) => 75,
            Self::NotPermitted(_) => 77,
            Self::NotStarted(_) => 126,
            Self::NoCommand(_) => 127,
        }
    }
}

/// The code of an error: its failure's, or 1.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.downcast_ref::<Failure>().map_or(1, Failure::code))
}

/// The table as `--help` shows it.
pub(crate) fn help() -> StyledStr {
    let lines = TABLE.map(|(code, meaning)| format!("  {code:<9} {meaning}"));
    format!("Exit codes:\n{}", lines.join("\n")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_code_that_the_table_explains() {
        let failures: [fn(String) -> Failure; 7] = [
            Failure::Undone,
            Failure::Usage,
            Failure::NoAgent,
            Failure::NotGranted,
            Failure::NotPermitted,
            Failure::NotStarted,
            Failure::NoCommand,
        ];
        let codes = failures.map(|failure| failure(String::new()).code());
        for code in codes {
            let told = |(codes, _): &(&str, &str)| codes.split(", ").any(|one| one == code.to_string());
            assert!(TABLE.iter().any(told), "{code}");
        }
        assert!((1..codes.len()).all(|at| !codes[..at].contains(&codes[at])), "no two share one: {codes:?}");
    }
}
