//! Starts the device plugin: settings, log, admin server, plugin. It only wires.

use anyhow::Context as _;
use clap::Parser as _;
use memboss_device_plugin::Plugin;
use memboss_device_plugin::settings::Settings;
use memboss_platform::admin::{Admin, Readiness};
use memboss_platform::{log, metrics, shutdown};

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    log::init(settings.log_format, "info")?;
    // One thread is enough for a node's pods, and keeps the process small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(start(settings))
}

async fn start(settings: Settings) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let readiness = Readiness::default();
    let admin = Admin::bind(settings.admin_address).await?;
    let mut registry = metrics::registry("memboss-device-plugin", env!("CARGO_PKG_VERSION"));
    let plugin = Plugin::new(settings, &readiness, &mut registry);
    let admin = tokio::spawn(admin.serve(readiness, registry, shutdown.clone()));
    plugin.run(shutdown).await;
    admin.await?.context("failed to serve the admin address")
}
