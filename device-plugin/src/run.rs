//! Builds the parts of the plugin and runs them until the end. It wires and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use memboss_agent_api::v1::GpuList;
use memboss_platform::admin::{Condition, Readiness};
use memboss_platform::metrics::Registry;
use memboss_platform::shutdown::Shutdown;

use tokio::sync::watch;

use crate::all_gpus::AllGpus;
use crate::cdi_directory::CdiDirectory;
use crate::checkpoint::Checkpoint;
use crate::door::{Door, GPUS_RESOURCE, LeadsTo, SOCKET_RESOURCE, plenty};
use crate::figures::Figures;
use crate::prestart::{Binder, Kubelet};
use crate::registration::{Offer, Registration};
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
        let sources = Sources { kind: settings.cdi_source_kind.clone(), directories: settings.cdi_sources.clone() };
        let kubelet = Kubelet { socket: settings.pod_resources_socket.clone(), resource: settings.resource.clone() };
        let binder = Binder {
            state: Arc::clone(&state),
            kubelet: kubelet.clone(),
            agent: settings.agent_socket.clone(),
            sources: sources.clone(),
            cdi: cdi.clone(),
            witness,
            patience: settings.timing.patience,
        };
        let service = Service {
            state: Arc::clone(&state),
            binder: Arc::new(binder),
            streams: Streams::default(),
            end: Shutdown::new(),
            figures: figures.clone(),
        };
        let (seen, gpus) = watch::channel(GpuList::default());
        let all_gpus = AllGpus::new(sources, cdi.clone(), settings.timing.look);
        let door = |leads_to, devices| Door::new(leads_to, &settings.workload_directory, devices, figures.clone());
        let (_always, open) = watch::channel(plenty());
        let to_agent = door(LeadsTo::Agent, open);
        let to_gpus = door(LeadsTo::AgentAndGpus, all_gpus.offered());
        tokio::join!(
            registration(&settings, &settings.resource, service, self.kubelet).run(shutdown.clone()),
            registration(&settings, SOCKET_RESOURCE, to_agent, readiness.condition("kubelet-agent"))
                .run(shutdown.clone()),
            registration(&settings, GPUS_RESOURCE, to_gpus, readiness.condition("kubelet-agent-gpus"))
                .run(shutdown.clone()),
            gpus::follow(&state, &seen, &settings.agent_socket, &self.agent, &shutdown),
            all_gpus.run(gpus, shutdown.clone()),
            watching.run(shutdown.clone()),
            look(&state, &kubelet, &cdi, &settings, &shutdown),
        );
    }
}

fn registration<S: Offer>(settings: &Settings, resource: &str, service: S, condition: Condition) -> Registration<S> {
    Registration {
        directory: settings.plugin_directory.clone(),
        resource: resource.to_owned(),
        service,
        condition,
        pace: settings.timing.pace,
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
