//! The agent's process: reads the command line, sets up the log, runs until told to end. It holds no logic.

use std::io::Write as _;

use anyhow::Context as _;
use clap::Parser as _;
use memboss_agent::settings::Flags;
use memboss_agent::start;
use memboss_platform::log;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let (format, only_check) = (flags.log_format, flags.check_config);
    let arguments = flags.resolve()?;
    if only_check {
        let text = arguments.config.to_toml().context("the configuration cannot be shown")?;
        return std::io::stdout().write_all(text.as_bytes()).context("failed to write to the output");
    }
    // What the client library logs is in our own errors, with what it was for.
    log::init(format, "info,kube_client=off")?;
    start::run(arguments).await
}
