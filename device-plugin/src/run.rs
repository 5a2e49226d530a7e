//! Builds the parts of the plugin and runs them until the end. It wires and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use memboss_platform::admin::{Condition, Readiness};
use memboss_platform::metrics::Registry;
use memboss_platform::shutdown::Shutdown;

use crate::cdi_directory::CdiDirectory;
use crate::checkpoint::Checkpoint;
use crate::figures::Figures;
use crate::prestart::{Binder, Kubelet};
use crate::registration::Registration;
use crate::server::{Service, Streams};
use crate::settings::Settings;
use crate::source::Sources;
use crate::state::{State, chain};
use crate::witness::Witness;
use crate::{gpus, lock, owner};

/// The plugin, not running yet.
#[derive(Debug)]
pub struct Plugin {
    settings: Settings,
    readiness: Readiness,
    figures: Figures,
    agent: Condition,
    kubelet: Condition,
}

impl Plugin {
    /// A plugin that shows itself in `readiness` and `registry`.
    #[must_use]
    pub fn new(settings: Settings, readiness: &Readiness, registry: &mut Registry) -> Self {
        Self {
            settings,
            readiness: readiness.clone(),
            figures: Figures::registered_in(registry),
            agent: readiness.condition("agent"),
            kubelet: readiness.condition("kubelet"),
        }
    }

    /// Runs until `shutdown`. Without its lock file it runs all the same: the pods of this node need it.
    pub async fn run(self, shutdown: Shutdown) {
        let _lock = tokio::select! {
            () = shutdown.cancelled() => return,
            lock = lock::take(&self.settings.state_directory) => {
                lock.inspect_err(|error| tracing::error!(error = chain(error), "going on without a lock")).ok()
            }
        };
        self.parts(shutdown).await;
    }

    async fn parts(self, shutdown: Shutdown) {
        let Self { settings, readiness, figures, .. } = self;
        let cdi =
            CdiDirectory { path: settings.cdi_directory.clone(), agent_directory: settings.workload_directory.clone() };
        let checkpoint = Checkpoint::in_directory(&settings.state_directory);
        let state = State::open(settings.multiple, checkpoint, &cdi, &readiness, figures.clone());
        let condition = readiness.condition("runtime-reads-cdi");
        let (witness, watching) =
            Witness::new(&settings.cdi_directory, settings.timing.unread, condition, figures.clone());
        let kubelet = Kubelet { socket: settings.pod_resources_socket.clone(), resource: settings.resource.clone() };
        let binder = Binder {
            state: Arc::clone(&state),
            kubelet: kubelet.clone(),
            agent: settings.agent_socket.clone(),
            sources: Sources { kind: settings.cdi_source_kind.clone(), directories: settings.cdi_sources.clone() },
            cdi: cdi.clone(),
            witness,
            patience: settings.timing.patience,
        };
        let service = Service {
            state: Arc::clone(&state),
            binder: Arc::new(binder),
            streams: Streams::default(),
            end: Shutdown::new(),
            figures,
        };
        let registration = Registration {
            directory: settings.plugin_directory.clone(),
            resource: settings.resource.clone(),
            service,
            condition: self.kubelet,
            pace: settings.timing.pace,
        };
        tokio::join!(
            registration.run(shutdown.clone()),
            gpus::follow(&state, &settings.agent_socket, &self.agent, &shutdown),
            watching.run(shutdown.clone()),
            look(&state, &kubelet, &cdi, &settings, &shutdown),
        );
    }
}

/// Every so often, which slots are in use. An empty answer proves nothing: a kubelet that just started lists no pod yet.
async fn look(state: &State, kubelet: &Kubelet, cdi: &CdiDirectory, settings: &Settings, shutdown: &Shutdown) {
    const AT_MOST: Duration = Duration::from_secs(5);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(settings.timing.look) => {}
        }
        match kubelet.list(AT_MOST).await {
            Ok(list) if list.pod_resources.is_empty() => {}
            Ok(list) => state.look(&owner::used(&list, &settings.resource), cdi).await,
            Err(error) => tracing::debug!(error = chain(&error), "the kubelet did not say which slots are in use"),
        }
    }
}
