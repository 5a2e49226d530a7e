//! What processes that lease in code may have. It may hold settings only.

use std::collections::BTreeMap;

use memboss_core::{Class, Span};

use crate::probes::processes::Caller;

/// What a process may have of leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Leases of one user or pod, those that wait included.
    pub leases: usize,
    /// Leases of one user or pod that wait.
    pub waiting: usize,
    /// How long a lease whose connection broke can be taken up again.
    pub grace: Span,
    /// How long after SIGTERM a process that must go is killed.
    pub kill_after: Span,
    /// Who may ask for which class.
    pub ceilings: Ceilings,
    /// The user that the agent runs as: like root it may steer everybody's leases.
    pub agent_user: u32,
}

impl Default for Limits {
    /// 10 s bridge the start of another agent, and the end of a process that was asked to go.
    fn default() -> Self {
        Self {
            leases: 2048,
            waiting: 2048,
            grace: Span::from_secs(10),
            kill_after: Span::from_secs(10),
            ceilings: Ceilings::default(),
            agent_user: 0,
        }
    }
}

impl Limits {
    /// Whether that caller may change leases that are not its own.
    #[must_use]
    pub fn steers_all(&self, caller: &Caller) -> bool {
        caller.is_user(0) || caller.is_user(self.agent_user)
    }
}

/// The highest class that somebody may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Whoever nothing else is said of, and every pod.
    pub everybody: Class,
    /// Root.
    pub root: Class,
    /// Single users, by their numbers: this goes before all else.
    pub users: BTreeMap<u32, Class>,
    /// Groups, by their numbers: the highest of those that a user is in.
    pub groups: BTreeMap<u32, Class>,
}

impl Default for Ceilings {
    /// URGENT is never a victim and never passed: one user should not have that over others.
    fn default() -> Self {
        Self { everybody: Class::High, root: Class::Urgent, users: BTreeMap::new(), groups: BTreeMap::new() }
    }
}

impl Ceilings {
    /// The highest class for that caller.
    #[must_use]
    pub fn of(&self, caller: &Caller) -> Class {
        if caller.pod.is_some() {
            return self.everybody;
        }
        if let Some(class) = self.users.get(&caller.user) {
            return *class;
        }
        if caller.is_user(0) {
            return self.root;
        }
        let by_group = caller.groups.iter().filter_map(|group| self.groups.get(group)).max();
        by_group.copied().unwrap_or(self.everybody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::processes::{PodUid, Process};

    fn caller(user: u32, groups: &[u32]) -> Caller {
        Caller {
            process: Process { pid: 1, started: 1 },
            user,
            groups: groups.to_vec(),
            pod: None,
            contained: false,
            command: String::new(),
        }
    }

    #[test]
    fn a_users_own_ceiling_goes_before_its_groups_and_a_pods_root_is_nobody_special() {
        let ceilings = Ceilings {
            everybody: Class::Normal,
            users: [(7, Class::Low)].into(),
            groups: [(10, Class::High), (11, Class::Batch)].into(),
            ..Ceilings::default()
        };
        for (user, groups, class) in [
            (0, &[][..], Class::Urgent),
            (5, &[], Class::Normal),
            (5, &[10, 11], Class::High),
            (5, &[11], Class::Batch),
            (7, &[10], Class::Low),
        ] {
            assert_eq!(ceilings.of(&caller(user, groups)), class, "{user} {groups:?}");
        }
        let in_pod = Caller { pod: Some(PodUid("p".into())), ..caller(0, &[]) };
        assert_eq!(ceilings.of(&in_pod), Class::Normal);
    }

    #[test]
    fn root_in_a_container_is_not_the_machines_root() {
        let root = caller(0, &[]);
        let inside = Caller { contained: true, ..root.clone() };
        let limits = Limits::default();
        assert!(limits.steers_all(&root) && !limits.steers_all(&inside));
        assert_eq!((limits.ceilings.of(&root), limits.ceilings.of(&inside)), (Class::Urgent, Class::High));
        assert!(!inside.is_of(&root) && !root.is_of(&inside) && inside.is_of(&inside));
        let user = |contained| Caller { contained, ..caller(1000, &[]) };
        assert!(user(true).is_of(&user(false)), "one user's containers are that user's");
    }
}
