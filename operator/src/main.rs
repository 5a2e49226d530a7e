//! Starts the operator. It only wires.

use clap::Parser as _;
use memboss_operator::settings::Settings;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    memboss_platform::log::init(settings.log_format, "info")?;
    memboss_operator::start::run(settings).await
}
