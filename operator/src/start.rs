//! Puts the operator's parts together and keeps them until the end. It may hold no rule.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use memboss_platform::admin::{Admin, Readiness};
use memboss_platform::metrics;
use memboss_platform::shutdown::{self, Shutdown};
use tokio::sync::{mpsc, watch};

use crate::brain::Brain;
use crate::credentials::Issuer;
use crate::election;
use crate::heartbeats::{self, Pulse};
use crate::metrics::Figures;
use crate::placeholders::Placeholders;
use crate::plan::Planning;
use crate::settings::{Command, Settings};
use crate::speak::Speaker;
use crate::watch::{self as watches};
use crate::webhook::{self, Desk, Place};
use crate::writes::Writer;

/// Runs until a signal, or until leadership is lost.
///
/// # Errors
/// When a part cannot start, or ends though nobody asked it to.
pub async fn run(settings: Settings) -> Result<()> {
    // One TLS provider for the process; a second attempt finds it there.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client =
        Client::try_default().await.context("failed to find the API server: run in a cluster, or set KUBECONFIG")?;
    if settings.command == Some(Command::Uninstall) {
        return crate::uninstall::run(&client).await;
    }
    let shutdown = shutdown::on_signal()?;
    let readiness = Readiness::default();
    let mut registry = metrics::registry("memboss-operator", env!("CARGO_PKG_VERSION"));
    let figures = Figures::new(&mut registry);
    let certificate = readiness.condition("webhook");
    let admin = Admin::bind(settings.admin_addr).await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn({
        let shutdown = shutdown.clone();
        async move { admin.serve(readiness, registry, shutdown).await.context("failed to serve the admin address") }
    });
    let redis = settings.redis().context("failed to read the Redis URL")?;
    let issuer = match (&redis, &settings.redis_url, &settings.redis_password) {
        (Some(redis), Some(url), Some(password)) => {
            Some(Issuer::new(client.clone(), redis.clone(), url.clone(), password.clone(), &settings.namespace))
        }
        _ => None,
    };
    let desk = Desk::new(&client, issuer, figures.clone());
    let place = Place {
        address: settings.webhook_addr,
        namespace: settings.namespace.clone(),
        service: settings.service_name.clone(),
    };
    tasks.spawn(webhook::serve(client.clone(), place, desk, certificate, shutdown.clone()));
    tasks.spawn(lead(client, settings, redis, figures, shutdown.clone()));
    while let Some(ended) = tasks.join_next().await {
        let outcome = ended.context("a part of the operator broke").and_then(|outcome| outcome);
        let asked = shutdown.is_cancelled();
        shutdown.cancel();
        if !asked {
            outcome?;
            bail!("a part of the operator ended by itself");
        }
    }
    Ok(())
}

/// Waits to lead, then leads until that ends; a process that lost its leadership ends, so that nothing of an old leader lives on.
async fn lead(
    client: Client,
    settings: Settings,
    redis: Option<redis::Client>,
    figures: Figures,
    shutdown: Shutdown,
) -> Result<()> {
    let nonce = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("failed to draw a nonce")?;
    let me = format!("{}_{}_{}", settings.pod_name, settings.pod_uid, nonce.trim());
    let Some(leadership) = election::lead(&client, &settings.namespace, &me, &shutdown).await? else { return Ok(()) };
    figures.leading(true);
    let (news, heard) = mpsc::channel(1024);
    watches::start(&client, &news);
    let (pulse_out, pulse) = watch::channel(Pulse::default());
    let (nodes_out, nodes) = watch::channel(BTreeSet::new());
    tokio::spawn(heartbeats::run(redis, nodes, pulse_out, shutdown.clone()));
    let planning = Planning { epoch: leadership.epoch, history: settings.history_ttl };
    let me = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(settings.namespace),
        name: Some(settings.pod_name.clone()),
        uid: Some(settings.pod_uid).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    };
    let writer = Writer::new(client.clone(), Speaker::new(client.clone(), settings.pod_name), me);
    let brain = Brain::new(planning, writer, Placeholders::new(client), figures, nodes_out);
    tokio::select! {
        () = brain.run(heard, pulse, shutdown.clone()) => {}
        _ = leadership.kept => {}
    }
    if !shutdown.is_cancelled() {
        bail!("leadership was lost");
    }
    Ok(())
}
