//! What GPUs there are to simulate: totals and what the driver keeps, as real boards show them. Pure.

use std::str::FromStr;

use sha2::{Digest, Sha256};

/// The kind of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The product's name, as NVML gives it.
    pub name: String,
    /// Memory as NVML totals it, in MiB.
    pub total_mib: u64,
    /// What the driver keeps of it, in MiB.
    pub reserved_mib: u64,
    /// What a context costs, in MiB. Real ones cost 100 to 500; the default is 0, so that tests count what they ask.
    pub context_mib: u64,
    /// CUDA compute capability, major and minor.
    pub capability: (u32, u32),
    /// PCI device id, vendor in the low half.
    pub pci_device_id: u32,
    /// Power limit in watts.
    pub power_limit_watts: u32,
}

/// A profile that is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to read GPU profile \"{0}\": use t4, a100-80, h100, h200 or <model>:<MiB>, with xN behind it for several"
)]
pub struct UnknownProfile(String);

impl Profile {
    fn new(name: &str, memory: (u64, u64), capability: (u32, u32), device: u32, power_limit_watts: u32) -> Self {
        Self {
            name: name.to_owned(),
            total_mib: memory.0,
            reserved_mib: memory.1,
            context_mib: 0,
            capability,
            pci_device_id: (device << 16) | 0x10de,
            power_limit_watts,
        }
    }

    /// Reads `t4`, `h100x2`, `SIM-24G:24576x3`: a profile, and how many.
    ///
    /// # Errors
    /// When the text names no profile.
    pub fn parse_many(text: &str) -> Result<(Self, usize), UnknownProfile> {
        if let Ok(profile) = text.parse() {
            return Ok((profile, 1));
        }
        let unknown = || UnknownProfile(text.to_owned());
        let (profile, count) = text.rsplit_once('x').ok_or_else(unknown)?;
        let count: usize = count.parse().ok().filter(|count| (1..=64).contains(count)).ok_or_else(unknown)?;
        Ok((profile.parse().map_err(|_| unknown())?, count))
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        let known = match text.to_ascii_lowercase().as_str() {
            "t4" => Self::new("Tesla T4", (15_360, 444), (7, 5), 0x1eb8, 70),
            "a100-80" => Self::new("NVIDIA A100-SXM4-80GB", (81_920, 600), (8, 0), 0x20b2, 400),
            "h100" => Self::new("NVIDIA H100 80GB HBM3", (81_559, 551), (9, 0), 0x2330, 700),
            "h200" => Self::new("NVIDIA H200", (143_771, 604), (9, 0), 0x2335, 700),
            _ => {
                let unknown = || UnknownProfile(text.to_owned());
                let (name, mib) = text.rsplit_once(':').ok_or_else(unknown)?;
                let total: u64 = mib.parse().ok().filter(|mib| (1..=1 << 24).contains(mib)).ok_or_else(unknown)?;
                if name.is_empty() || name.len() > 90 {
                    return Err(unknown());
                }
                // About what a driver keeps of a small board.
                Self::new(name, (total, total / 64), (9, 0), 0x2330, 300)
            }
        };
        Ok(known)
    }
}

/// The UUID of a node's GPU: the same for the same seed and index.
#[must_use]
pub fn gpu_uuid(seed: &str, index: u32) -> String {
    let digest = Sha256::digest(format!("memboss-sim/{seed}/{index}"));
    let mut bytes: [u8; 16] = std::array::from_fn(|at| digest[at]);
    // Version 4 and the usual variant, so that it passes for a UUID everywhere.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("GPU-{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_may_be_asked_for_several_times() {
        let (profile, count) = Profile::parse_many("h100x2").unwrap();
        assert_eq!((profile.total_mib, count), (81_559, 2));
        let (profile, count) = Profile::parse_many("SIM-24G:24576x3").unwrap();
        assert_eq!((profile.name.as_str(), profile.total_mib, count), ("SIM-24G", 24_576, 3));
        assert_eq!(Profile::parse_many("xbox:100").unwrap().1, 1);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in ["", "rtx", "t4x0", "t4x", "x2", ":5", "a:", "a:0", "a:-1", "a:1.5"] {
            assert!(Profile::parse_many(text).is_err(), "{text}");
        }
    }

    #[test]
    fn uuids_are_stable_and_differ_by_seed_and_index() {
        assert_eq!(gpu_uuid("a", 0), gpu_uuid("a", 0));
        assert_ne!(gpu_uuid("a", 0), gpu_uuid("a", 1));
        assert_ne!(gpu_uuid("a", 0), gpu_uuid("b", 0));
        assert_eq!(gpu_uuid("a", 0).len(), 40);
    }
}
