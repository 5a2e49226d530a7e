//! Who uses a GPU's memory: leases, pods without a lease, others. Pure: from one reading, the owners of its processes and what is charged.

use std::collections::BTreeMap;

use memboss_core::{LeaseId, Mib};

use crate::probes::processes::PodUid;

/// Whose a process on a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One of the pod of that lease.
    Lease(LeaseId),
    /// One of a pod that holds no lease on this GPU.
    Stranger(PodUid),
    /// Not a pod's, or not known.
    Other,
}

/// How one GPU's memory is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuUse {
    /// All that is in use.
    pub used: Mib,
    /// What no lease explains: others' processes, and what a lease's processes use above it.
    pub foreign: Mib,
    /// What each lease's processes use.
    pub leases: BTreeMap<LeaseId, Mib>,
    /// What pods without a lease here use.
    pub strangers: BTreeMap<PodUid, Mib>,
}

/// Divides what is used. `charged` holds each lease's amount on this GPU; a process of unknown size counts as using what remains unexplained, up to
/// its lease: it would be counted twice otherwise.
#[must_use]
pub fn attribute(used_bytes: u64, processes: &[(Holder, Option<u64>)], charged: &BTreeMap<LeaseId, Mib>) -> GpuUse {
    let mut by_lease: BTreeMap<&LeaseId, u64> = BTreeMap::new();
    let mut strangers: BTreeMap<PodUid, u64> = BTreeMap::new();
    let mut unknown: Vec<&LeaseId> = Vec::new();
    let mut known_total: u64 = 0;
    for (holder, bytes) in processes {
        known_total = known_total.saturating_add(bytes.unwrap_or(0));
        match holder {
            Holder::Lease(lease) => {
                *by_lease.entry(lease).or_default() += bytes.unwrap_or(0);
                if bytes.is_none() {
                    unknown.push(lease);
                }
            }
            Holder::Stranger(pod) => *strangers.entry(pod.clone()).or_default() += bytes.unwrap_or(0),
            Holder::Other => {}
        }
    }
    let mut rest = used_bytes.saturating_sub(known_total);
    for lease in unknown {
        let uses = by_lease.entry(lease).or_default();
        let room = charged.get(lease).copied().unwrap_or_default().bytes().saturating_sub(*uses).min(rest);
        *uses += room;
        rest -= room;
    }
    let leases: BTreeMap<LeaseId, Mib> =
        by_lease.into_iter().map(|(lease, bytes)| (lease.clone(), Mib::from_bytes_ceil(bytes))).collect();
    let explained: Mib =
        leases.iter().map(|(lease, uses)| (*uses).min(charged.get(lease).copied().unwrap_or_default())).sum();
    let used = Mib::from_bytes_ceil(used_bytes);
    GpuUse {
        used,
        foreign: used.minus(explained),
        leases,
        strangers: strangers.into_iter().map(|(pod, bytes)| (pod, Mib::from_bytes_ceil(bytes))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn id(name: &str) -> LeaseId {
        LeaseId::new(name).unwrap()
    }

    fn gib(n: u64) -> Mib {
        Mib::from_mib(n * 1024)
    }

    #[test]
    fn what_a_lease_explains_is_not_foreign() {
        let processes = [
            (Holder::Lease(id("a")), Some(3 * GIB)),
            (Holder::Lease(id("a")), Some(GIB)),
            (Holder::Stranger(PodUid("p".into())), Some(2 * GIB)),
            (Holder::Other, Some(GIB)),
        ];
        let use_ = attribute(8 * GIB, &processes, &[(id("a"), gib(6))].into());
        assert_eq!(use_.used, gib(8));
        assert_eq!(use_.leases[&id("a")], gib(4));
        assert_eq!(use_.strangers[&PodUid("p".into())], gib(2));
        assert_eq!(use_.foreign, gib(4), "2 of the stranger, 1 of the other, 1 of nobody");
    }

    #[test]
    fn use_above_a_lease_is_foreign() {
        let use_ = attribute(5 * GIB, &[(Holder::Lease(id("a")), Some(5 * GIB))], &[(id("a"), gib(3))].into());
        assert_eq!(use_.foreign, gib(2));
    }

    #[test]
    fn a_process_of_unknown_size_is_not_counted_twice() {
        let use_ = attribute(5 * GIB, &[(Holder::Lease(id("a")), None)], &[(id("a"), gib(6))].into());
        assert_eq!((use_.foreign, use_.leases[&id("a")]), (Mib::ZERO, gib(5)));
        let above = attribute(8 * GIB, &[(Holder::Lease(id("a")), None)], &[(id("a"), gib(6))].into());
        assert_eq!(above.foreign, gib(2));
    }

    #[test]
    fn part_of_a_mebibyte_counts_as_one() {
        assert_eq!(attribute(1, &[], &BTreeMap::new()).foreign, Mib::from_mib(1));
    }
}
