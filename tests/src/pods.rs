//! Pods of the tests: made from a few words, watched, read. It may not know what a test expects of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::wait::until;

/// The image with all binaries of the project.
pub const IMAGE: &str = "docker.io/local/memboss:bed";

/// A pod that allocates what it leased and holds it.
#[derive(Clone, Debug)]
pub struct TestPod {
    name: String,
    annotations: BTreeMap<String, String>,
    containers: Vec<(String, Vec<String>)>,
    spec: Value,
    owner: Option<Value>,
}

impl TestPod {
    /// A pod with one container `main`, which allocates nothing until told.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            annotations: BTreeMap::new(),
            containers: vec![("main".to_owned(), vec!["--hold".to_owned(), "forever".to_owned()])],
            spec: json!({}),
            owner: None,
        }
    }

    /// A pod that asks for `vram` in that class, and allocates all of it.
    #[must_use]
    pub fn leasing(name: &str, vram: &str, class: &str) -> Self {
        let amount = vram.rsplit('x').next().unwrap_or(vram).to_owned();
        Self::new(name).annotate("vram", vram).annotate("priority", class).args("main", &["--alloc", &amount])
    }

    /// An annotation of ours.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(format!("memboss.dev/{key}"), value.to_owned());
        self
    }

    /// More arguments for a container's workload; a container of a new name is added.
    #[must_use]
    pub fn args(mut self, container: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned());
        match self.containers.iter_mut().find(|(name, _)| name == container) {
            Some((_, present)) => present.extend(args),
            None => self.containers.push((
                container.to_owned(),
                ["--hold", "forever"].iter().map(|a| (*a).to_owned()).chain(args).collect(),
            )),
        }
        self
    }

    /// Fields of the pod's spec, merged over the others.
    #[must_use]
    pub fn spec(mut self, fields: Value) -> Self {
        if let (Some(spec), Value::Object(fields)) = (self.spec.as_object_mut(), fields) {
            spec.extend(fields);
        }
        self
    }

    /// The pod's template, for a controller.
    #[must_use]
    pub fn template(&self) -> Value {
        let containers: Vec<_> = self.containers.iter().map(|(name, args)| container(name, args)).collect();
        let mut spec =
            json!({ "terminationGracePeriodSeconds": 5, "containers": containers, "restartPolicy": "Always" });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), self.spec.as_object()) {
            spec.extend(more.clone());
        }
        json!({ "metadata": { "annotations": self.annotations, "labels": { "app": self.name } }, "spec": spec })
    }

    /// The pod as an object.
    ///
    /// # Errors
    /// When the fields given are no pod's.
    pub fn object(&self) -> Result<Pod> {
        let mut value = self.template();
        value["metadata"]["name"] = json!(self.name);
        if let Some(owner) = &self.owner {
            value["metadata"]["ownerReferences"] = json!([owner]);
        }
        Ok(serde_json::from_value(value)?)
    }

    /// Creates it.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn create(&self, client: &Client, namespace: &str) -> Result<Pod> {
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        Ok(api.create(&PostParams::default(), &self.object()?).await?)
    }

    /// Creates it where that must be refused; returns the message.
    ///
    /// # Errors
    /// When it is accepted.
    pub async fn refused(&self, client: &Client, namespace: &str) -> Result<String> {
        match self.create(client, namespace).await {
            Ok(_) => anyhow::bail!("pod {} with {:?} was accepted", self.name, self.annotations),
            Err(error) => Ok(format!("{error:#}")),
        }
    }
}

fn container(name: &str, args: &[String]) -> Value {
    json!({
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["memboss-workload"],
        "args": args,
        "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
    })
}

/// A pod as it is now.
///
/// # Errors
/// When the API server does not answer.
pub async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>> {
    Ok(Api::<Pod>::namespaced(client.clone(), namespace).get_opt(name).await?)
}

/// Whether all its containers run and are ready.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|all| !all.is_empty() && all.iter().all(|c| c.ready))
}

/// Its phase.
#[must_use]
pub fn phase(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

/// Its name, phase and what each container is at: for the message of a test that waited in vain.
#[must_use]
pub fn in_words(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let containers: Vec<_> = statuses
        .iter()
        .map(|c| {
            format!(
                "{} (ready: {}, restarts: {}) {:?}, before: {:?}",
                c.name, c.ready, c.restart_count, c.state, c.last_state
            )
        })
        .collect();
    format!("{name} is {}: {}", phase(pod), containers.join(", "))
}

/// Waits until it runs.
///
/// # Errors
/// When it does not, with the words of its conditions.
pub async fn running(client: &Client, namespace: &str, name: &str) -> Result<Pod> {
    let found = until(&format!("pod {name} runs"), 60, || async {
        let pod = get(client, namespace, name).await?;
        if let Some(pod) = &pod {
            anyhow::ensure!(phase(pod) != "Failed", "it Failed: {:?}", pod.status);
        }
        Ok(pod.filter(is_running))
    })
    .await;
    match found {
        Ok(pod) => Ok(pod),
        Err(error) => Err(error.context(describe(client, namespace, name).await)),
    }
}

/// What `kubectl describe` would show of it, in short.
pub async fn describe(client: &Client, namespace: &str, name: &str) -> String {
    let pod = get(client, namespace, name).await.ok().flatten();
    let status = pod.and_then(|pod| pod.status).map(|status| json!(status).to_string());
    status.unwrap_or_else(|| "there is no such pod".into())
}

/// Deletes a pod and waits until it is gone.
///
/// # Errors
/// When it does not go.
pub async fn delete(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    api.delete(name, &DeleteParams::default()).await.with_context(|| format!("failed to delete pod {name}"))?;
    until(&format!("pod {name} is gone"), 60, || async { Ok(api.get_opt(name).await?.is_none().then_some(())) }).await
}

/// Deletes all pods of a namespace at once, with a short grace.
///
/// # Errors
/// When the API server does not answer.
pub async fn delete_all(client: &Client, namespace: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let short = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    api.delete_collection(&short, &ListParams::default()).await?;
    Ok(())
}

/// What a container printed, line by line.
///
/// # Errors
/// When the kubelet does not tell.
pub async fn log(client: &Client, namespace: &str, name: &str, container: &str) -> Result<Vec<Value>> {
    let text = text(client, namespace, name, container).await?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The same as it was printed.
///
/// # Errors
/// When the kubelet does not tell.
pub async fn text(client: &Client, namespace: &str, name: &str, container: &str) -> Result<String> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    Ok(api.logs(name, &LogParams { container: Some(container.into()), ..LogParams::default() }).await?)
}

/// Names of the pods with a label `app`.
///
/// # Errors
/// When the API server does not answer.
pub async fn named(client: &Client, namespace: &str, app: &str) -> Result<Vec<String>> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(&format!("app={app}"))).await?;
    Ok(list.items.iter().map(ResourceExt::name_any).collect())
}
