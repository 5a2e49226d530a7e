//! A ledger that was damaged in any way is never taken for another; what was not written to its end is not there.

use std::collections::BTreeMap;

use memboss_core::{Class, Demand, LeaseId, LeaseRecord, Mib, Moment, Phase, Request, Slot, Token};
use proptest::prelude::*;

use super::*;
use crate::order::Epoch;

fn id(name: &str) -> LeaseId {
    LeaseId::new(name).unwrap()
}

fn record(name: &str, mib: u64) -> LeaseRecord {
    let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(mib))], ram: Mib::ZERO };
    let request = Request::new(id(name), Class::Normal, demand, Moment::from_millis(0));
    LeaseRecord { request, phase: Phase::Waiting, placement: None, token: Token::default() }
}

fn ledger(names: &[&str]) -> Ledger {
    Ledger {
        boot_id: "boot-1".into(),
        agent_epoch: 3,
        token: Token { epoch: 3, sequence: 9 },
        records: names.iter().map(|name| record(name, 256)).collect(),
        ..Ledger::default()
    }
}

fn comes(arrival: u64, name: &str, mib: u64) -> Change {
    Change { records: [(id(name), Some((arrival, record(name, mib))))].into(), ..Change::default() }
}

fn goes(name: &str) -> Change {
    Change { records: [(id(name), None)].into(), ..Change::default() }
}

fn names(ledger: &Ledger) -> Vec<&str> {
    ledger.records.iter().map(|record| record.request.id.as_str()).collect()
}

/// A file of a whole and three changes, with the ledger as it is after each, and the lengths at which these are written.
fn written() -> (tempfile::TempDir, Vec<u8>, Vec<(usize, Ledger)>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut journal = Journal::new(&path);
    let mut stages = Vec::new();
    let mut note = |journal: &Journal| {
        let length = std::fs::read(&path).unwrap().len();
        stages.push((length, journal.read().unwrap().unwrap().ledger));
    };
    journal.begin(&ledger(&["b", "a"])).unwrap();
    note(&journal);
    let token = Some(Token { epoch: 3, sequence: 10 });
    let head = Head { floor: Some(Epoch { incarnation: "i".into(), number: 7 }), ..Head::default() };
    for change in [comes(9, "c", 512), Change { token, head: Some(head), ..comes(2, "a", 1024) }, goes("b")] {
        journal.add(&change).unwrap();
        note(&journal);
    }
    let bytes = std::fs::read(&path).unwrap();
    (dir, bytes, stages)
}

#[test]
fn what_is_written_is_read_back_in_the_order_in_which_it_came_and_nothing_is_no_error() {
    let (dir, _, stages) = written();
    assert_eq!(Journal::new(dir.path().join("none")).read().unwrap(), None);
    let seen: Vec<_> = stages.iter().map(|(_, ledger)| names(ledger)).collect();
    assert_eq!(seen, [vec!["b", "a"], vec!["b", "a", "c"], vec!["b", "a", "c"], vec!["a", "c"]]);
    let last = &stages[3].1;
    assert_eq!(last.records[0].request.demand.slots[0].fixed, Mib::from_mib(1024));
    assert_eq!((last.token.sequence, last.floor.as_ref().map(|floor| floor.number)), (10, Some(7)));
    // What goes and comes again comes last.
    let mut journal = Journal::new(dir.path().join("ledger"));
    journal.begin(last).unwrap();
    journal.add(&goes("a")).unwrap();
    journal.add(&comes(12, "d", 256)).unwrap();
    journal.add(&comes(13, "a", 256)).unwrap();
    assert_eq!(names(&journal.read().unwrap().unwrap().ledger), ["c", "d", "a"]);
}

#[test]
fn a_file_that_ends_anywhere_holds_what_was_written_before() {
    let (dir, bytes, stages) = written();
    let path = dir.path().join("ledger");
    for at in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..at]).unwrap();
        let read = Journal::new(&path).read();
        match stages.iter().rev().find(|(length, _)| *length <= at) {
            Some((length, before)) => {
                let found = read.unwrap().unwrap();
                assert_eq!((&found.ledger, found.cut), (before, at - length), "ends at {at}");
            }
            None => assert!(matches!(read, Err(Failure::Damaged { .. })), "ends at {at}"),
        }
    }
}

#[test]
fn a_file_of_which_a_bit_is_wrong_is_damaged() {
    let (dir, bytes, _) = written();
    let path = dir.path().join("ledger");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Journal::new(&path).read(), Err(Failure::Damaged { .. })), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn frames_that_were_left_out_doubled_or_exchanged_are_damage() {
    let (dir, bytes, stages) = written();
    let path = dir.path().join("ledger");
    let ends: Vec<usize> = stages.iter().map(|(length, _)| *length).collect();
    let frame = |at: usize| &bytes[if at == 0 { 0 } else { ends[at - 1] }..ends[at]];
    for order in [&[0, 2, 3][..], &[0, 1, 1], &[0, 2, 1, 3], &[1, 2], &[0, 0]] {
        let bad: Vec<u8> = order.iter().flat_map(|at| frame(*at)).copied().collect();
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(Journal::new(&path).read(), Err(Failure::Damaged { .. })), "{order:?}");
    }
}

#[test]
fn a_new_whole_is_wanted_when_the_changes_are_long_and_when_the_file_is_not_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut journal = Journal::new(&path);
    assert!(journal.wants_whole() && !journal.can_add());
    assert!(journal.add(&goes("a")).is_err(), "nothing is there to add to");
    journal.begin(&ledger(&["a"])).unwrap();
    let mut added = 0_u64;
    while !journal.wants_whole() {
        journal.add(&comes(1, "a", 256)).unwrap();
        added += 1;
    }
    assert!(std::fs::metadata(&path).unwrap().len() >= LEAST && added > 100);
    for harm in
        [&(|| std::fs::remove_file(&path).unwrap()) as &dyn Fn(), &|| std::fs::write(&path, "").unwrap(), &|| {
            std::fs::write(dir.path().join("other"), "other").unwrap();
            std::fs::rename(dir.path().join("other"), &path).unwrap();
        }]
    {
        journal.begin(&ledger(&["a"])).unwrap();
        assert!(!journal.wants_whole() && journal.can_add());
        harm();
        assert!(journal.wants_whole() && !journal.can_add());
    }
}

#[test]
fn where_a_whole_cannot_be_written_the_old_one_stays_and_is_added_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut journal = Journal::new(&path);
    journal.begin(&ledger(&["a"])).unwrap();
    std::fs::create_dir(dir.path().join("ledger.tmp")).unwrap();
    assert!(matches!(journal.begin(&ledger(&["b"])), Err(Failure::Write { .. })));
    assert!(journal.can_add());
    journal.add(&comes(1, "c", 256)).unwrap();
    assert_eq!(names(&journal.read().unwrap().unwrap().ledger), ["a", "c"]);
}

#[test]
fn a_ledger_of_an_agent_that_knew_fewer_fields_is_read_and_one_of_another_version_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let mut content = serde_json::json!({ "version": VERSION, "ledger": ledger(&["a"]) });
    for version in [VERSION, VERSION + 1] {
        content["version"] = version.into();
        let fields = content["ledger"].as_object_mut().unwrap();
        fields.remove("clients");
        fields.remove("drained");
        std::fs::write(&path, frame(content.to_string().as_bytes(), &[0; 32]).0).unwrap();
        let read = Journal::new(&path).read();
        if version == VERSION {
            assert_eq!(read.unwrap().unwrap().ledger, ledger(&["a"]));
        } else {
            assert!(matches!(read, Err(Failure::Damaged { .. })));
        }
    }
}

proptest! {
    #[test]
    fn changes_written_together_or_one_by_one_are_the_same(
        steps in prop::collection::vec((0..4usize, prop::option::of(1..9u64)), 0..20),
        cuts in prop::collection::vec(any::<bool>(), 20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path().join("ledger"));
        journal.begin(&ledger(&["n1", "n0"])).unwrap();
        let mut expect: BTreeMap<String, u64> = [("n0".into(), 256), ("n1".into(), 256)].into();
        let mut pending = Change::default();
        for (arrival, ((who, what), cut)) in steps.into_iter().zip(cuts).enumerate() {
            let name = format!("n{who}");
            let change = match what {
                Some(mib) => {
                    expect.insert(name.clone(), mib);
                    comes(arrival as u64, &name, mib)
                }
                None => {
                    expect.remove(&name);
                    goes(&name)
                }
            };
            pending.then(change);
            if cut {
                journal.add(&std::mem::take(&mut pending)).unwrap();
            }
        }
        journal.add(&pending).unwrap();
        let read = journal.read().unwrap().unwrap().ledger;
        let seen = read.records.iter().map(|r| (r.request.id.to_string(), r.request.demand.slots[0].fixed.mib()));
        prop_assert_eq!(seen.collect::<BTreeMap<_, _>>(), expect);
    }
}
