//! The five classes. It may only order and name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a lease's work is worth beside others', from the least to the most. Only the base class gives the right to preempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Runs in what is left; the first to give way.
    Batch,
    /// Below the ordinary.
    Low,
    /// What nothing else was said of.
    #[default]
    Normal,
    /// Before the ordinary.
    High,
    /// Never passed in the queue, never a victim.
    Urgent,
}

impl Class {
    /// All, from the least.
    pub const ALL: [Self; 5] = [Self::Batch, Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// 0 for `Batch` to 4 for `Urgent`.
    #[must_use]
    pub const fn rank(self) -> usize {
        self as usize
    }

    /// The name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a class: urgent, high, normal, low and batch are")]
pub struct UnknownClass(pub String);

impl FromStr for Class {
    type Err = UnknownClass;
    fn from_str(word: &str) -> Result<Self, UnknownClass> {
        Self::ALL
            .into_iter()
            .find(|class| class.name().eq_ignore_ascii_case(word))
            .ok_or_else(|| UnknownClass(word.to_owned()))
    }
}
