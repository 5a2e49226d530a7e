//! What is wrong with a configuration file: where, in which field, and what would be right.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// It cannot be read.
    #[error("failed to read the configuration {path:?}: is it there, and may it be read?")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It says something that is not allowed.
    #[error("{path}, line {line}{}: {what}", if field.is_empty() { String::new() } else { format!(", {field}") })]
    Content {
        /// Which.
        path: String,
        /// From 1.
        line: usize,
        /// The field, with the tables that it is in; empty where none can be told.
        field: String,
        /// What is wrong, and what is allowed.
        what: String,
    },
}

impl Wrong {
    /// It is no TOML.
    pub(super) fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self::at(path, text, error.span(), String::new(), error.message().to_owned())
    }

    /// A field is unknown, or its value is of another kind.
    pub(super) fn field(path: &Path, text: &str, error: &serde_path_to_error::Error<toml::de::Error>) -> Self {
        let (inner, at) = (error.inner(), error.path().to_string());
        let message = inner.message().trim().to_owned();
        let field = if at == "." { String::new() } else { at };
        let what = match suggestion(&message) {
            Some(meant) => format!("{message}; did you mean `{meant}`?"),
            None => message,
        };
        Self::at(path, text, inner.span(), field, what)
    }

    /// A value is none that is allowed here.
    pub(super) fn value(path: &Path, text: &str, field: &str, what: String) -> Self {
        let (table, name) = field.split_once('.').unwrap_or(("", field));
        Self::Content {
            path: path.display().to_string(),
            line: line_of(text, table, name),
            field: field.to_owned(),
            what,
        }
    }

    fn at(path: &Path, text: &str, span: Option<Range<usize>>, field: String, what: String) -> Self {
        let before = span.map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
        Self::Content { path: path.display().to_string(), line, field, what }
    }
}

/// The line of that field in its table, or of the table; the first where it is not written at all.
fn line_of(text: &str, table: &str, name: &str) -> usize {
    let mut current = String::new();
    let mut of_table = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            current = head.split(']').next().unwrap_or_default().trim().to_owned();
            if current == table || current == format!("{table}.{name}") {
                of_table = Some(at + 1);
            }
        } else if current == table && line.split('=').next().is_some_and(|key| key.trim() == name) {
            return at + 1;
        }
    }
    of_table.unwrap_or(1)
}

/// Which of the words that are allowed was meant.
fn suggestion(message: &str) -> Option<&str> {
    let (wrong, allowed) = message.strip_prefix("unknown ")?.split_once(", expected ")?;
    let given = wrong.split('`').nth(1)?;
    let likely = |word: &&str| strsim::jaro_winkler(given, word) > 0.75;
    let words = allowed.split('`').skip(1).step_by(2).filter(likely);
    words.max_by(|a, b| strsim::jaro_winkler(given, a).total_cmp(&strsim::jaro_winkler(given, b)))
}
