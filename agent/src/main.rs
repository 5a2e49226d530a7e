//! The agent's process: reads the command line, sets up the log, runs until told to end. It holds no logic.

use clap::Parser as _;
use memboss_agent::settings::Arguments;
use memboss_agent::start;
use memboss_platform::log;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // What the client library logs is in our own errors, with what it was for.
    log::init(arguments.log_format, "info,kube_client=off")?;
    start::run(arguments).await
}
