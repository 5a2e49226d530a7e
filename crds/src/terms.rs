//! What several of the custom resources have in common. It may hold types of the API only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a lease's work is worth beside others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Runs in what is left.
    Batch,
    /// Below the ordinary.
    Low,
    /// The ordinary.
    #[default]
    Normal,
    /// Before the ordinary.
    High,
    /// Never passed, never a victim.
    Urgent,
}

impl From<Class> for memboss_core::Class {
    fn from(class: Class) -> Self {
        match class {
            Class::Batch => Self::Batch,
            Class::Low => Self::Low,
            Class::Normal => Self::Normal,
            Class::High => Self::High,
            Class::Urgent => Self::Urgent,
        }
    }
}

impl From<memboss_core::Class> for Class {
    fn from(class: memboss_core::Class) -> Self {
        match class {
            memboss_core::Class::Batch => Self::Batch,
            memboss_core::Class::Low => Self::Low,
            memboss_core::Class::Normal => Self::Normal,
            memboss_core::Class::High => Self::High,
            memboss_core::Class::Urgent => Self::Urgent,
        }
    }
}

/// Where to put a lease that fits in several places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Layout {
    /// Where the least stays free.
    #[default]
    Pack,
    /// Where the most stays free.
    Spread,
}

impl From<Layout> for memboss_core::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Pack => Self::Pack,
            Layout::Spread => Self::Spread,
        }
    }
}

/// What made a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Which leader of which installation decided something. Agents refuse an older one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// The installation.
    pub incarnation: String,
    /// Its leaders, counted.
    pub number: u64,
}
