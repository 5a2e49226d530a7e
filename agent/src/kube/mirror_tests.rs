//! Which leases in code are shown, and how.

use memboss_core::{Class, GpuUuid, Mib, Token};

use super::*;
use crate::order::Answered;
use crate::probes::processes::{PodUid, Process};

fn seen(state: State, part_of: Option<&str>) -> LeaseSeen {
    let pod = PodUid("uid".into());
    LeaseSeen {
        class: Some(Class::Low),
        gpus: vec![(GpuUuid::new("GPU-a").unwrap(), 1, "L4".into(), Mib::from_mib(2048))],
        token: Token { epoch: 1, sequence: 7 },
        used: vec![Mib::from_mib(10)],
        since: Moment::from_millis(1000),
        whose: Some(Whose {
            process: Some(Process { pid: 7, started: 1 }),
            user: 0,
            pod: Some(pod.clone()),
            named: Some(Subject { pod, namespace: "team".into(), name: "worker".into() }),
            part_of: part_of.map(|whole| LeaseId::new(whole).unwrap()),
            name: "python3".into(),
            label: "training".into(),
        }),
        ..LeaseSeen::bare(Answered { object: String::new(), attempt: 0 }, state)
    }
}

fn id() -> LeaseId {
    LeaseId::new("pod-uid/1-1").unwrap()
}

/// What is done at that second, of a lease that has held its memory since the first.
fn acts(seen: &LeaseSeen, there: &BTreeMap<Key, Option<VramLeaseStatus>>, second: u64) -> Vec<Act> {
    let (leases, held) = ([(id(), seen.clone())].into(), [(id(), Moment::from_millis(1000))].into());
    let now = (Moment::from_millis(second * 1000), Timestamp::UNIX_EPOCH);
    plan(&leases, there, &held, &|_| None, "n1", now)
}

#[test]
fn a_lease_is_shown_once_it_has_held_its_memory_for_a_while_and_again_when_it_changes() {
    let active = seen(State::Active, None);
    assert_eq!(acts(&active, &BTreeMap::new(), 5), []);
    let made = acts(&active, &BTreeMap::new(), 6);
    let [Act::Make(object)] = made.as_slice() else { panic!("{made:?}") };
    let json = serde_json::to_value(object).unwrap();
    assert_eq!(json["spec"]["slots"][0]["memory"], "2Gi");
    assert_eq!((&json["spec"]["class"], &json["spec"]["requested"]), (&"low".into(), &"2Gi".into()));
    assert_eq!(json["metadata"]["labels"]["memboss.dev/in-code"], "own");
    assert_eq!(json["metadata"]["ownerReferences"][0]["uid"], "uid");

    let key = ("team".to_owned(), object.metadata.name.clone().unwrap());
    let mut there = BTreeMap::from([(key.clone(), None)]);
    let said = acts(&active, &there, 6);
    let [Act::Say(_, status)] = said.as_slice() else { panic!("{said:?}") };
    let json = serde_json::to_value(status).unwrap();
    assert_eq!((&json["phase"], &json["placement"]["node"]), (&"Active".into(), &"n1".into()));
    assert_eq!(json["allocation"]["display"], "gpu1");
    assert_eq!(json["message"], "leased in code by python3: training");
    there.insert(key.clone(), Some((**status).clone()));
    assert_eq!(acts(&active, &there, 60), [], "time alone is no news, and neither is what it uses");
    assert!(matches!(acts(&seen(State::Revoking, None), &there, 60).as_slice(), [Act::Say(..)]));
    assert_eq!(
        plan(&BTreeMap::new(), &there, &BTreeMap::new(), &|_| None, "n1", (Moment::default(), Timestamp::UNIX_EPOCH)),
        [Act::Remove(key)]
    );
}

#[test]
fn a_part_says_of_what_and_one_that_waits_or_is_no_pods_is_not_shown() {
    let made = acts(&seen(State::Active, Some("team/worker-1")), &BTreeMap::new(), 9);
    let [Act::Make(object)] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!(object.metadata.labels.as_ref().unwrap()[IN_CODE_LABEL], "part");
    assert_eq!(acts(&seen(State::Waiting, None), &BTreeMap::new(), 9), []);
    let mut strange = seen(State::Active, None);
    strange.whose.as_mut().unwrap().named = None;
    assert_eq!(acts(&strange, &BTreeMap::new(), 9), []);
}

#[test]
fn one_of_ram_alone_is_of_the_other_kind() {
    let mut ram = seen(State::Active, None);
    (ram.gpus, ram.ram) = (Vec::new(), Mib::from_mib(4096));
    let made = acts(&ram, &BTreeMap::new(), 9);
    let [Act::Make(object)] = made.as_slice() else { panic!("{made:?}") };
    let object = object.as_ram().unwrap();
    assert_eq!(object.spec.memory, "4Gi");
    assert!(object.metadata.name.unwrap().starts_with("worker-"));
}
