//! The container device interface: the form of a spec file, and how one device of ours is composed from the devices of a source spec.
//! Pure. Fields that are not named here pass through untouched, so that a newer source spec loses nothing.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Annotations of a spec, which ours needs, exist from this version on.
const OLDEST_VERSION: &str = "0.6.0";

/// One spec file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the form.
    pub cdi_version: String,
    /// vendor/class.
    pub kind: String,
    /// Free words of whoever wrote it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub annotations: Map<String, Value>,
    /// What can be injected, by name.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// What every device of this file brings besides its own.
    #[serde(default, skip_serializing_if = "ContainerEdits::is_empty")]
    pub container_edits: ContainerEdits,
    /// Anything newer.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One device of a spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Unique in its kind.
    pub name: String,
    /// What it does to a container.
    #[serde(default)]
    pub container_edits: ContainerEdits,
    /// Anything newer, and the device's annotations.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is done to a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEdits {
    /// NAME=value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Nodes under /dev.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<Value>,
    /// OCI hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Value>,
    /// Mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Value>,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// Anything else: intelRdt, netDevices, and newer.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ContainerEdits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `more` has and this has not. Later environment wins.
    pub fn merge(&mut self, more: &Self) {
        for variable in &more.env {
            self.set_env(variable);
        }
        add_missing(&mut self.device_nodes, &more.device_nodes);
        add_missing(&mut self.hooks, &more.hooks);
        add_missing(&mut self.mounts, &more.mounts);
        add_missing(&mut self.additional_gids, &more.additional_gids);
        for (field, value) in &more.other {
            match (self.other.get_mut(field), value) {
                (Some(Value::Array(ours)), Value::Array(theirs)) => add_missing(ours, theirs),
                _ => {
                    self.other.insert(field.clone(), value.clone());
                }
            }
        }
    }

    fn set_env(&mut self, variable: &str) {
        let name = name_of(variable);
        self.env.retain(|present| name_of(present) != name);
        self.env.push(variable.to_owned());
    }
}

fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn add_missing<T: Clone + PartialEq>(present: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !present.contains(item) {
            present.push(item.clone());
        }
    }
}

/// The newer of two versions; one that cannot be read counts as the oldest.
#[must_use]
pub fn newer<'a>(one: &'a str, other: &'a str) -> &'a str {
    let key = |version: &str| -> Vec<u32> {
        version.trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    if key(other) > key(one) { other } else { one }
}

/// A spec of `kind` whose devices `names` all do `edits`.
#[must_use]
pub fn compose(
    kind: &str,
    version: &str,
    names: &[String],
    edits: &ContainerEdits,
    annotations: Map<String, Value>,
) -> Spec {
    let device = |name: &String| Device { name: name.clone(), container_edits: edits.clone(), other: Map::new() };
    Spec {
        cdi_version: newer(OLDEST_VERSION, version).to_owned(),
        kind: kind.to_owned(),
        annotations,
        devices: names.iter().map(device).collect(),
        container_edits: ContainerEdits::default(),
        other: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        assert_eq!(newer("0.6.0", "0.10.0"), "0.10.0");
        assert_eq!(newer("0.6.0", "0.5.0"), "0.6.0");
        assert_eq!(newer("0.6.0", "v1.1.0"), "v1.1.0");
        assert_eq!(newer("0.6.0", "nonsense"), "0.6.0");
    }

    #[test]
    fn unknown_fields_pass_through_and_merge() {
        let read = |value: Value| -> ContainerEdits { serde_json::from_value(value).unwrap() };
        let mut edits = read(json!({"env": ["A=1", "B=1"], "netDevices": [{"name": "x"}], "future": 1}));
        edits.merge(&read(json!({"env": ["A=2"], "netDevices": [{"name": "x"}, {"name": "y"}], "future": 2,
            "deviceNodes": [{"path": "/dev/x", "someday": true}]})));
        edits.merge(&read(json!({"deviceNodes": [{"path": "/dev/x", "someday": true}]})));
        let expected = json!({"env": ["B=1", "A=2"], "netDevices": [{"name": "x"}, {"name": "y"}], "future": 2,
            "deviceNodes": [{"path": "/dev/x", "someday": true}]});
        assert_eq!(serde_json::to_value(edits).unwrap(), expected);
    }
}
