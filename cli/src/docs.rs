//! The manual of the command line, written from the command line itself. Pure, but for the file that it is asked to write or to compare.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use clap_markdown::MarkdownOptions;

use crate::exit::{Failure, TABLE};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct Docs {
    /// Where it goes; without: to the standard output.
    file: Option<PathBuf>,
    /// Only says whether that file is up to date.
    #[arg(long, requires = "file")]
    check: bool,
}

pub(crate) fn run(asked: &Docs, command: &clap::Command) -> Result<()> {
    let text = manual(command);
    match &asked.file {
        None => output::line(text.trim_end()),
        Some(file) if asked.check => check(file, &text),
        Some(file) => std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display())),
    }
}

fn check(file: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    Err(Failure::Undone(format!("{} is not what the command line says: run `make docs`", file.display())).into())
}

fn manual(command: &clap::Command) -> String {
    let options = MarkdownOptions::new().title("The command line".to_owned()).show_footer(false);
    let generated = clap_markdown::help_markdown_command_custom(&command.clone().after_long_help(""), &options);
    let lines: Vec<&str> = generated.lines().map(str::trim_end).collect();
    let codes: Vec<String> = TABLE.iter().map(|(code, meaning)| format!("| {code} | {meaning} |")).collect();
    format!(
        "<!-- Generated from cli/src by `make docs`. -->\n{}\n\n## Exit codes\n\n| code | meaning |\n|---|---|\n{}\n",
        lines.join("\n").trim_end(),
        codes.join("\n")
    )
}
