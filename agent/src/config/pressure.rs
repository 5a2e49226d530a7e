//! The part of the configuration file about RAM under pressure.

use std::path::PathBuf;

use memboss_core::{Mib, Threshold, Thresholds};
use serde::{Deserialize, Serialize};

use super::Part;

/// What is done about RAM under pressure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PressurePart {
    /// Whether anything is; it is told in any case.
    pub act: bool,
    /// The directories of whose files cache may be dropped; none for none.
    pub clean_in: Vec<PathBuf>,
    /// The kubelet evicts when less is left, in MiB; on a node of a cluster alone.
    pub eviction_mib: u64,
    /// Where that level begins.
    pub moderate: LevelPart,
    /// Where that level begins.
    pub high: LevelPart,
    /// Where that level begins.
    pub critical: LevelPart,
}

/// Where a level begins: by either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LevelPart {
    /// Less of all RAM is available, in percent.
    pub available_percent: Part,
    /// No more is left until the kubelet evicts, in MiB.
    pub left_mib: u64,
}

impl Default for PressurePart {
    fn default() -> Self {
        let Thresholds { moderate, high, critical } = Thresholds::default();
        Self {
            act: true,
            clean_in: Vec::new(),
            // The kubelet's own default.
            eviction_mib: 100,
            moderate: moderate.into(),
            high: high.into(),
            critical: critical.into(),
        }
    }
}

impl From<Threshold> for LevelPart {
    fn from(threshold: Threshold) -> Self {
        Self { available_percent: Part(threshold.available), left_mib: threshold.left.mib() }
    }
}

impl From<LevelPart> for Threshold {
    fn from(part: LevelPart) -> Self {
        Self { available: part.available_percent.0, left: Mib::from_mib(part.left_mib) }
    }
}

impl PressurePart {
    /// Where the levels begin.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { moderate: self.moderate.into(), high: self.high.into(), critical: self.critical.into() }
    }

    /// What no single value shows.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let pairs = [
            ("pressure.high", "moderate", self.high, self.moderate),
            ("pressure.critical", "high", self.critical, self.high),
        ];
        for (field, below, worse, better) in pairs {
            if worse.available_percent.0 > better.available_percent.0 || worse.left_mib > better.left_mib {
                return Err((field, format!("it begins before {below} does: no more than there is allowed")));
            }
        }
        if let Some(path) = self.clean_in.iter().find(|path| !path.is_absolute()) {
            return Err(("pressure.clean-in", format!("{} is no absolute path", path.display())));
        }
        Ok(())
    }
}
