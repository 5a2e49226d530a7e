//! Remembers when something was first seen of an object, as the API server's watch told it: nothing polls, so a figure has no step in it.
//! It may not know what is looked for.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use kube::Api;
use kube::runtime::watcher::{Config, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Bounds a failure only.
const LIMIT: Duration = Duration::from_secs(180);
const LISTENING: &str = "(the watch listens)";

/// What happened to an object.
pub(crate) enum Sight<'a, K> {
    /// It is there and looks so.
    There(&'a K),
    /// It is gone and looked so last.
    Gone(&'a K),
}

/// What was seen of the objects that an API lists, by the names that the looker gave, each with the moment when it was first seen.
pub(crate) struct Marks {
    seen: watch::Receiver<HashMap<String, Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Marks {
    /// Watches from now on. `look` names what is to be remembered of what is seen, if anything.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn of<K, L>(api: Api<K>, look: L) -> Result<Self>
    where
        K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        L: Fn(Sight<'_, K>) -> Option<String> + Send + Sync + 'static,
    {
        let (tell, seen) = watch::channel(HashMap::new());
        let mark = move |name: Option<String>| {
            let now = Instant::now();
            if let Some(name) = name {
                tell.send_modify(|seen| {
                    seen.entry(name).or_insert(now);
                });
            }
        };
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(api, Config::default()));
            loop {
                // The watcher begins anew after an error.
                let Ok(event) = events.try_next().await else { continue };
                match event {
                    Some(Event::Apply(object) | Event::InitApply(object)) => mark(look(Sight::There(&object))),
                    Some(Event::Delete(object)) => mark(look(Sight::Gone(&object))),
                    Some(Event::InitDone) => mark(Some(LISTENING.into())),
                    Some(Event::Init) => {}
                    None => return,
                }
            }
        });
        let marks = Self { seen, task };
        marks.when(LISTENING).await?;
        Ok(marks)
    }

    /// When this was first seen; waits for it.
    ///
    /// # Errors
    /// When it is not seen for long.
    pub(crate) async fn when(&self, name: &str) -> Result<Instant> {
        let mut seen = self.seen.clone();
        let found = tokio::time::timeout(LIMIT, seen.wait_for(|seen| seen.contains_key(name)))
            .await
            .with_context(|| format!("{name} was not seen within {} s", LIMIT.as_secs()))?
            .context("the watch ended")?;
        found.get(name).copied().context("it was seen")
    }

    /// When each of these was first seen; waits for all.
    ///
    /// # Errors
    /// When one is not seen for long.
    pub(crate) async fn all(&self, names: &[String]) -> Result<Vec<Instant>> {
        let mut moments = Vec::with_capacity(names.len());
        for name in names {
            moments.push(self.when(name).await?);
        }
        Ok(moments)
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.task.abort();
    }
}
