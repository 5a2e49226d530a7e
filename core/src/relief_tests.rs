//! The table of what is done at which pressure, and who is asked to go.

use super::*;

fn mib(n: u64) -> Mib {
    Mib::from_mib(n)
}

fn holder(name: &str, class: Class, held: u64, used: u64) -> RamHolder {
    let lease = LeaseId::new(format!("ns/{name}")).unwrap();
    RamHolder { lease, class, held: mib(held), used: mib(used), stay: Stay::Open }
}

fn staying(stay: Stay, holder: RamHolder) -> RamHolder {
    RamHolder { stay, ..holder }
}

fn at(level: Pressure, cause: Cause, cleaning: LastCleaning, holders: &[RamHolder]) -> Situation<'_> {
    Situation { level, shown: level, cause, missing: mib(500), cleaning, holders }
}

fn names(step: &Step) -> Vec<&str> {
    match step {
        Step::Preempt(leases) => leases.iter().map(|lease| lease.as_str().trim_start_matches("ns/")).collect(),
        other => panic!("nobody is asked: {other:?}"),
    }
}

#[test]
fn it_cleans_first_and_asks_holders_where_that_does_not_help() {
    use Cause::{Cache, InUse, Nothing, Stalls};
    use LastCleaning::{Impossible, JustDone, LongAgo, Running};
    use Pressure::{Critical, High, Low, Moderate};
    let holders = [holder("a", Class::Batch, 100, 900)];
    let asked = Step::Preempt(vec![holders[0].lease.clone()]);
    for (level, cause, cleaning, step) in [
        (Low, Nothing, LongAgo, Step::Nothing),
        (Moderate, Cache, LongAgo, Step::Clean(Cleaning::Balanced)),
        (Moderate, Cache, JustDone, Step::Nothing),
        (Moderate, Cache, Impossible, Step::Nothing),
        (Moderate, InUse, LongAgo, Step::Nothing),
        (High, Cache, LongAgo, Step::Clean(Cleaning::Aggressive)),
        (High, Cache, Running, Step::Nothing),
        (High, Cache, JustDone, asked.clone()),
        (High, Cache, Impossible, asked.clone()),
        // What can be dropped is counted as available already.
        (High, InUse, LongAgo, asked.clone()),
        (High, InUse, Running, asked.clone()),
        (High, Stalls, LongAgo, Step::Nothing),
        (Critical, Stalls, JustDone, Step::Nothing),
        (Critical, Cache, LongAgo, Step::Clean(Cleaning::Aggressive)),
        (Critical, Cache, Running, Step::Nothing),
        (Critical, Cache, JustDone, asked.clone()),
        (Critical, InUse, Impossible, asked),
    ] {
        assert_eq!(at(level, cause, cleaning, &holders).next(), step, "{level} {cause:?} {cleaning:?}");
    }
}

#[test]
fn a_level_that_is_only_kept_asks_nobody() {
    let holders = [holder("a", Class::Batch, 100, 900)];
    let kept = at(Pressure::Critical, Cause::InUse, LastCleaning::JustDone, &holders);
    assert_eq!(Situation { shown: Pressure::Low, ..kept }.next(), Step::Nothing);
    // And a flicker is no level yet.
    assert_eq!(Situation { level: Pressure::Low, ..kept }.next(), Step::Nothing);
    // Both count: protected ones go only where it is critical and still is.
    let protected = [staying(Stay::Protected, holders[0].clone())];
    let kept = at(Pressure::Critical, Cause::InUse, LastCleaning::JustDone, &protected);
    assert_eq!(Situation { shown: Pressure::High, ..kept }.next(), Step::Nothing);
}

#[test]
fn whoever_is_above_its_lease_goes_first_and_the_lowest_class_first() {
    let (batch, low) = (holder("batch", Class::Batch, 900, 900), holder("low", Class::Low, 900, 900));
    let over = |name: &str, class, by: u64| holder(name, class, 100, 100 + by);
    for (holders, expected) in [
        (vec![low.clone(), batch.clone()], vec!["batch"]),
        (vec![batch.clone(), over("high", Class::High, 400)], vec!["high"]),
        (vec![over("high", Class::High, 800), over("normal", Class::Normal, 400)], vec!["normal"]),
        // One class at a time: the next look shows whether more is needed.
        (vec![over("small", Class::Batch, 10), batch.clone()], vec!["small"]),
        // As many of it as what is missing takes, the largest excess first.
        (vec![over("a", Class::Low, 150), over("b", Class::Low, 350), over("c", Class::Low, 90)], vec!["b", "a"]),
        // Who has nothing gives nothing.
        (vec![holder("idle", Class::Batch, 5000, 0), low.clone()], vec!["low"]),
        (vec![staying(Stay::Stuck, batch.clone()), low], vec!["low"]),
    ] {
        let step = at(Pressure::High, Cause::InUse, LastCleaning::JustDone, &holders).next();
        assert_eq!(names(&step), expected, "{holders:?}");
    }
}

#[test]
fn while_somebody_is_on_its_way_nobody_else_is_asked() {
    let holders =
        [staying(Stay::Going, holder("goes", Class::Batch, 900, 900)), holder("stays", Class::Batch, 900, 900)];
    for level in [Pressure::High, Pressure::Critical] {
        assert_eq!(at(level, Cause::InUse, LastCleaning::JustDone, &holders).next(), Step::Nothing);
    }
}

#[test]
fn the_protected_and_the_urgent_go_last_and_only_when_it_is_critical() {
    let over = |name: &str, class| holder(name, class, 100, 900);
    let within = |name: &str, class| holder(name, class, 900, 900);
    let protected = |holder| staying(Stay::Protected, holder);
    for (holders, high, critical) in [
        (vec![protected(within("a", Class::Batch))], vec![], vec!["a"]),
        (vec![protected(within("a", Class::Batch)), within("b", Class::Batch)], vec!["b"], vec!["b"]),
        (vec![protected(within("a", Class::Batch)), within("b", Class::High)], vec!["b"], vec!["a"]),
        (vec![within("u", Class::Urgent)], vec![], vec![]),
        (vec![over("u", Class::Urgent)], vec![], vec!["u"]),
    ] {
        for (level, expected) in [(Pressure::High, high), (Pressure::Critical, critical)] {
            let step = at(level, Cause::InUse, LastCleaning::JustDone, &holders).next();
            if expected.is_empty() {
                assert_eq!(step, Step::Nothing, "{level}: {holders:?}");
            } else {
                assert_eq!(names(&step), expected, "{level}: {holders:?}");
            }
        }
    }
}
