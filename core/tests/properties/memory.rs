//! Properties of the accounts: what is charged, claimed and free, and that the books agree.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{Decision, Phase, Token};
use proptest::prelude::*;

use crate::driver::{Event, World, events, nodes};
use crate::naive::{parts, place_of, pools};

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn a_decision_never_charges_more_than_there_is(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            let before = pools(step.between, &world.facts);
            for (name, pool) in pools(&world.engine, &world.facts) {
                prop_assert!(pool.used() <= pool.size.max(before[&name].used()), "{name:?} after {:?}", step.event);
            }
            Ok(())
        })?;
    }

    #[test]
    fn memory_comes_free_only_by_those_who_have_it(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            for was in step.between.leases().iter().filter(|l| l.phase.is_charged()) {
                let is = world.engine.lease(&was.id);
                let timed_out = matches!(was.phase, Phase::Reserved { until } if until <= step.now);
                prop_assert!(timed_out || is.is_some_and(|is| is.placement == was.placement), "{} in a decision", was.id);
            }
            let gives = matches!(step.event, Event::End(_) | Event::Shrink(..) | Event::Offload(..) | Event::Requeue(_) | Event::RemoveNode(_));
            for was in step.before.leases().iter().filter(|l| l.phase.is_charged() && !gives) {
                let is = step.between.lease(&was.id);
                prop_assert!(is.is_some_and(|is| is.placement == was.placement), "{} by {:?}", was.id, step.event);
            }
            Ok(())
        })?;
    }

    #[test]
    fn all_is_granted_or_nothing(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            for decision in step.decisions {
                let (Decision::Grant { lease, placement, .. } | Decision::Claim { lease, placement, .. }) = decision else { continue };
                let request = world.engine.request(lease).unwrap();
                let facts = world.facts.iter().find(|n| n.name == placement.node).unwrap();
                let sizes: Vec<_> = placement.gpus.iter().map(|s| facts.gpus.iter().find(|g| g.uuid == s.uuid).unwrap()).collect();
                let uuids: BTreeSet<_> = placement.gpus.iter().map(|s| &s.uuid).collect();
                prop_assert_eq!(uuids.len(), request.demand.slots.len());
                prop_assert_eq!(placement.ram, request.demand.ram);
                for ((slot, share), gpu) in request.demand.slots.iter().zip(&placement.gpus).zip(sizes) {
                    prop_assert_eq!(share.memory, slot.on(gpu.leasable));
                    prop_assert!(request.gpus.accepts(&gpu.uuid, &gpu.model) && gpu.closed.is_none());
                }
            }
            for view in world.engine.gpus() {
                let name = (view.node.to_string(), Some(view.uuid.to_string()));
                let pool = &pools(&world.engine, &world.facts)[&name];
                prop_assert_eq!(view.leased.mib(), pool.charges.values().map(|(_, m, _)| m).sum::<u64>());
                prop_assert_eq!(view.claimed.mib(), pool.claims.values().map(|(_, m, _)| m).sum::<u64>());
            }
            Ok(())
        })?;
    }

    #[test]
    fn tokens_grow(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        let mut newest = Token::default();
        world.live(&events, &mut |world, step| {
            for decision in step.decisions {
                let Decision::Grant { lease, token, .. } = decision else { continue };
                prop_assert!(*token > newest, "{lease}: {token:?} after {newest:?}");
                newest = *token;
            }
            prop_assert!(world.engine.last_token() >= newest);
            Ok(())
        })?;
    }

    #[test]
    fn the_books_agree(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            for (engine, when) in [(step.between, "before"), (&world.engine, "after")] {
                if let Err(text) = engine.check() {
                    return Err(TestCaseError::fail(format!("{text}, {when} the decision on {:?}", step.event)));
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_is_claimed_can_come(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, _| {
            let pools = pools(&world.engine, &world.facts);
            for lease in world.engine.leases().iter().filter(|l| l.phase == Phase::Waiting) {
                let own = place_of(&world.engine.request(&lease.id).unwrap());
                for (name, memory) in lease.placement.iter().flat_map(parts) {
                    let pool = &pools[&name];
                    let higher = pool.claims.values().filter(|(class, _, place)| *class > lease.class && *place < own).map(|(_, m, _)| m).sum::<u64>();
                    prop_assert!(!pool.closed, "{} claims what is closed", lease.id);
                    prop_assert!(memory + higher + pool.used() <= pool.size + pool.leaving(), "{} at {name:?}: {pool:?}", lease.id);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_same_calls_give_the_same_answers(nodes in nodes(), events in events()) {
        let mut told = Vec::new();
        let (mut one, mut two) = (World::new(&nodes), World::new(&nodes));
        one.live(&events, &mut |_, step| { told.push(step.decisions.to_vec()); Ok(()) })?;
        let mut again = told.into_iter();
        two.live(&events, &mut |_, step| {
            prop_assert_eq!(Some(step.decisions.to_vec()), again.next());
            Ok(())
        })?;
        prop_assert_eq!(one.engine.records(), two.engine.records());
    }

    #[test]
    fn the_same_request_twice_is_one(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, _| {
            let mut again = world.engine.clone();
            for lease in world.engine.leases() {
                again.submit(world.engine.request(&lease.id).unwrap()).unwrap();
            }
            prop_assert_eq!(again.decide(world.now()), vec![]);
            prop_assert_eq!(again.leases(), world.engine.leases());
            Ok(())
        })?;
    }

    #[test]
    fn whoever_follows_the_leases_that_were_touched_knows_them_all(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        let mut known = BTreeMap::new();
        for event in &events {
            // An engine that begins anew tells of all at first.
            if matches!(event, Event::Restart) {
                known.clear();
            }
            world.live(std::slice::from_ref(event), &mut |_, _| Ok(()))?;
            for lease in world.engine.take_touched() {
                match world.engine.record(&lease) {
                    Some(record) => drop(known.insert(lease, record)),
                    None => drop(known.remove(&lease)),
                }
            }
            let mut followed: Vec<_> = known.values().cloned().collect();
            followed.sort_by_key(|(arrival, _)| *arrival);
            let followed: Vec<_> = followed.into_iter().map(|(_, record)| record).collect();
            prop_assert_eq!(followed, world.engine.records());
        }
    }
}
