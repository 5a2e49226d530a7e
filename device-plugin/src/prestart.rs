//! Binds a container that is about to start to the GPUs of its lease: who is it (kubelet), what has it (agent), write it (CDI directory).
//! It may wait a little for the lease; the kubelet asks again after an error, and cuts the call at 30 s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{PrepareRequest, PrepareResponse};
use memboss_kubelet_api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use memboss_kubelet_api::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cdi_directory::{self, CdiDirectory, file_name};
use crate::owner::{self, Owner};
use crate::slots::SlotSet;
use crate::source::{NoSource, Sources};
use crate::state::State;
use crate::witness::Witness;

/// How long a start may wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a lease that is there but not admitted yet.
    pub admission: Duration,
    /// For a pod or lease that kubelet or agent may not have heard of yet, and for an agent that restarts.
    pub news: Duration,
    /// Between two attempts.
    pub pause: Duration,
    /// For one answer of kubelet or agent.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            admission: Duration::from_secs(10),
            news: Duration::from_secs(3),
            pause: Duration::from_millis(100),
            answer: Duration::from_secs(5),
        }
    }
}

/// Why a container may not start now. The kubelet shows the text on the pod, and asks again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody remembers what CDI name the kubelet was told.
    #[error(
        "failed to find the CDI name given for slots {slots}: this plugin's checkpoint was lost since the pod was admitted; \
         delete the pod, so that it is given slots anew"
    )]
    NameLost {
        /// The slots.
        slots: SlotSet,
    },
    /// The kubelet did not tell whose slots they are.
    #[error("failed to read the kubelet's podresources at {socket:?}")]
    AskKubelet {
        /// Where.
        socket: PathBuf,
        /// What was answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It told, but not of them.
    #[error(transparent)]
    NoOwner(owner::Unknown),
    /// While waiting, the slots went to somebody else.
    #[error("failed to bind slots {slots}: they went from {before} to another container meanwhile")]
    OwnerChanged {
        /// The slots.
        slots: SlotSet,
        /// Who had them.
        before: Owner,
    },
    /// The agent did not answer.
    #[error("failed to ask the agent for the lease of {owner}: is memboss-agent running on this node?")]
    AskAgent {
        /// For whom.
        owner: Owner,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent knows no lease of the pod.
    #[error("no lease for {owner}: {message}")]
    NoLease {
        /// For whom.
        owner: Owner,
        /// The agent's words.
        message: String,
    },
    /// The lease has no memory yet.
    #[error("the lease of {owner} is not admitted yet: {message}")]
    NotAdmitted {
        /// For whom.
        owner: Owner,
        /// The agent's words.
        message: String,
    },
    /// The node's CDI specs lack the GPU.
    #[error(transparent)]
    NoSource(NoSource),
    /// The file could not be written.
    #[error(transparent)]
    WriteFile(cdi_directory::Write),
    /// The process is ending.
    #[error("failed to finish: the plugin is shutting down")]
    Ending,
}

impl Refusal {
    /// For the metric.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NameLost { .. } => "name_lost",
            Self::AskKubelet { .. } => "kubelet_silent",
            Self::NoOwner(_) => "no_owner",
            Self::OwnerChanged { .. } => "owner_changed",
            Self::AskAgent { .. } => "agent_silent",
            Self::NoLease { .. } => "no_lease",
            Self::NotAdmitted { .. } => "not_admitted",
            Self::NoSource(_) => "no_source",
            Self::WriteFile(_) => "write_file",
            Self::Ending => "ending",
        }
    }

    /// How long it is worth waiting for it to pass.
    fn worth_waiting(&self, patience: &Patience) -> Duration {
        match self {
            Self::NotAdmitted { .. } => patience.admission,
            Self::AskKubelet { .. }
            | Self::NoOwner(_)
            | Self::OwnerChanged { .. }
            | Self::AskAgent { .. }
            | Self::NoLease { .. } => patience.news,
            Self::NameLost { .. } | Self::NoSource(_) | Self::WriteFile(_) | Self::Ending => Duration::ZERO,
        }
    }
}

/// Asks the kubelet's podresources.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Its socket.
    pub socket: PathBuf,
    /// The resource whose ids are slots.
    pub resource: String,
}

impl Kubelet {
    /// All active pods with what they were given.
    ///
    /// # Errors
    /// [`Refusal::AskKubelet`].
    pub async fn list(&self, at_most: Duration) -> Result<ListPodResourcesResponse, Refusal> {
        let failed = |source| Refusal::AskKubelet { socket: self.socket.clone(), source };
        let ask = async {
            let channel = memboss_kubelet_api::connect(&self.socket).await.map_err(|error| failed(error.into()))?;
            let mut client = PodResourcesListerClient::new(channel)
                .max_decoding_message_size(memboss_kubelet_api::POD_RESOURCES_MAX_BYTES);
            let list = client.list(ListPodResourcesRequest {}).await.map_err(|status| failed(status.into()))?;
            Ok(list.into_inner())
        };
        tokio::time::timeout(at_most, ask).await.unwrap_or_else(|elapsed| Err(failed(elapsed.into())))
    }
}

/// Does it.
#[derive(Debug)]
pub struct Binder {
    /// Knows the CDI names.
    pub state: Arc<State>,
    /// Knows whose slots they are.
    pub kubelet: Kubelet,
    /// Where the agent answers, which knows the lease.
    pub agent: PathBuf,
    /// Where the GPUs are described.
    pub sources: Sources,
    /// Where the container runtime looks.
    pub cdi: CdiDirectory,
    /// Sees whether it does.
    pub witness: Witness,
    /// Limits.
    pub patience: Patience,
}

impl Binder {
    /// When this returns without error, the container runtime can resolve the CDI name that these slots were given.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn bind(&self, slots: &SlotSet) -> Result<Owner, Refusal> {
        let names = self.state.names(slots).ok_or_else(|| Refusal::NameLost { slots: slots.clone() })?;
        let (owner, lease) = self.lease(slots).await?;
        let uuids: Vec<String> = lease.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        self.write(slots.clone(), names, lease).await?;
        self.state.bind(slots, uuids).await;
        Ok(owner)
    }

    /// Asks until there is a lease or waiting makes no sense any more. Each attempt asks the kubelet first: after a wait the slots may be another's.
    async fn lease(&self, slots: &SlotSet) -> Result<(Owner, PrepareResponse), Refusal> {
        let begun = Instant::now();
        loop {
            match self.attempt(slots).await {
                Ok(found) => return Ok(found),
                Err(refusal) if begun.elapsed() + self.patience.pause < refusal.worth_waiting(&self.patience) => {
                    tokio::time::sleep(self.patience.pause).await;
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }

    async fn attempt(&self, slots: &SlotSet) -> Result<(Owner, PrepareResponse), Refusal> {
        let owner = self.owner(slots).await?;
        let asked = Instant::now();
        let lease = self.prepare(&owner).await?;
        // A slow answer is a wait too.
        if asked.elapsed() > self.patience.pause && self.owner(slots).await? != owner {
            return Err(Refusal::OwnerChanged { slots: slots.clone(), before: owner });
        }
        Ok((owner, lease))
    }

    async fn owner(&self, slots: &SlotSet) -> Result<Owner, Refusal> {
        let list = self.kubelet.list(self.patience.answer).await?;
        owner::find(&list, &self.kubelet.resource, slots).map_err(Refusal::NoOwner)
    }

    async fn prepare(&self, owner: &Owner) -> Result<PrepareResponse, Refusal> {
        let silent = |source| Refusal::AskAgent { owner: owner.clone(), source };
        let request = PrepareRequest {
            // The kubelet does not tell it; the agent knows the pod by its name.
            pod_uid: String::new(),
            pod_namespace: owner.namespace.clone(),
            pod_name: owner.pod.clone(),
            container: owner.container.clone(),
        };
        let ask = async {
            let channel = memboss_agent_api::connect(&self.agent).await.map_err(|error| silent(error.into()))?;
            NodeClient::new(channel).prepare(request).await.map_err(|status| refused(owner, status))
        };
        let answer = tokio::time::timeout(self.patience.answer, ask).await;
        answer.unwrap_or_else(|elapsed| Err(silent(elapsed.into()))).map(tonic::Response::into_inner)
    }

    /// Reads the source specs and writes ours; in a thread of its own, for such specs are long.
    async fn write(&self, slots: SlotSet, names: Vec<String>, lease: PrepareResponse) -> Result<(), Refusal> {
        let (sources, cdi, witness) = (self.sources.clone(), self.cdi.clone(), self.witness.clone());
        let task = tokio::task::spawn_blocking(move || {
            let merged = sources.merge(&lease.gpus).map_err(Refusal::NoSource)?;
            if let Some(newest) = names.last() {
                witness.announce(file_name(newest));
            }
            cdi.write(&slots, &names, &lease, merged).map_err(Refusal::WriteFile)
        });
        task.await.unwrap_or(Err(Refusal::Ending))
    }
}

fn refused(owner: &Owner, status: Status) -> Refusal {
    let (owner, message) = (owner.clone(), status.message().to_owned());
    match status.code() {
        Code::NotFound => Refusal::NoLease { owner, message },
        Code::FailedPrecondition => Refusal::NotAdmitted { owner, message },
        _ => Refusal::AskAgent { owner, source: status.into() },
    }
}
