//! Kinds whose schema is there before their controller: each object is told so in a condition, instead of being silently ignored.

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use memboss_crds::{ModelLoad, OPERATOR};
use serde_json::json;
use tracing::debug;

/// Answers such objects.
#[derive(Clone)]
pub struct Placeholders {
    client: Client,
}

impl std::fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placeholders").finish_non_exhaustive()
    }
}

impl Placeholders {
    /// Answers by that client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// A ModelLoad was seen.
    pub fn model(&self, load: &ModelLoad) {
        if load.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
            self.answer(
                Api::<ModelLoad>::namespaced(self.client.clone(), &load.namespace().unwrap_or_default()),
                load.name_any(),
                "ModelLoad",
            );
        }
    }

    fn answer<K>(&self, api: Api<K>, name: String, kind: &'static str)
    where
        K: Clone + serde::de::DeserializeOwned + Send + Sync + std::fmt::Debug + 'static,
    {
        let condition = json!({ "status": { "conditions": [{
            "type": "Served", "status": "False", "reason": "NotInThisVersion",
            "message": format!("this version of memboss keeps {kind} objects but does nothing for them yet"),
            "lastTransitionTime": Timestamp::now(),
        }] } });
        tokio::spawn(async move {
            let parameters = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
            if let Err(error) = api.patch_status(&name, &parameters, &Patch::Merge(condition)).await {
                debug!(
                    error = &error as &dyn std::error::Error,
                    kind, name, "could not say that this kind is not served"
                );
            }
        });
    }
}
