//! Properties of who gets what: nobody is lost, nobody is passed beyond what the rules allow, and only lower ones give way.

use std::collections::BTreeMap;

use memboss_core::{Class, Decision, EndReason, Engine, Forecast, LeaseId, Moment, Phase, Policy};
use proptest::prelude::*;

use crate::driver::{World, ask, events, nodes};
use crate::naive::{could_ever, fits, parts, place_of, pools, ways};

fn places(engine: &Engine) -> BTreeMap<LeaseId, usize> {
    engine.queue().into_iter().enumerate().map(|(place, lease)| (lease, place)).collect()
}

fn may_be_victim(engine: &Engine, victim: &LeaseId, of: Class, now: Moment) -> Result<(), String> {
    let request = engine.request(victim).unwrap();
    let policy = Policy::default();
    let since = match engine.lease(victim).unwrap().phase {
        Phase::Active { since } => since,
        // In this very decision it had given what it was asked for, or was spared, and so was active again when it was chosen.
        Phase::Revoking { since, notice } if notice.reason == EndReason::Preempted => since,
        other => return Err(format!("is {other:?}")),
    };
    if request.class >= of {
        return Err("is not of a lower class".into());
    }
    if request.preempted >= policy.preemption_budget {
        return Err("gave way often enough".into());
    }
    let until = since.after(policy.protection_for(request.class, request.protection));
    if now < until { Err("is protected".into()) } else { Ok(()) }
}

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn nobody_waits_who_fits_and_delays_nobody(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            let pools = pools(&world.engine, &world.facts);
            let places = places(&world.engine);
            for (lease, place) in &places {
                let request = world.engine.request(lease).unwrap();
                let before = |other: &LeaseId| places.get(other).is_some_and(|at| at < place);
                let way = ways(&request, &world.facts).into_iter().find(|way| fits(&pools, way, &request, &before));
                prop_assert!(way.is_none(), "{lease} fits at {way:?} after {:?}: {:?}", step.event, world.engine.lease(lease));
            }
            Ok(())
        })?;
    }

    #[test]
    fn nobody_delays_who_stands_first_before_it(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            let (mut then, now) = (pools(step.between, &world.facts), pools(&world.engine, &world.facts));
            let places = places(step.between);
            for decision in step.decisions {
                let Decision::Grant { lease, placement, .. } = decision else { continue };
                let Some(place) = places.get(lease) else { continue };
                let claimed = step.decisions.iter().any(|d| matches!(d, Decision::Claim { lease: other, .. } if other == lease));
                for (name, memory) in parts(placement) {
                    let Some((first, _)) = then.get(&name).and_then(|pool| pool.first.clone()) else { continue };
                    let still = now[&name].first.as_ref().is_some_and(|(lease, _)| *lease == first);
                    let earlier = places.get(&first).is_some_and(|at| at < place);
                    let pool = then.get_mut(&name).unwrap();
                    (pool.charges, pool.claims) = (now[&name].charges.clone(), now[&name].claims.clone());
                    prop_assert!(claimed || !still || !earlier || !pool.delays_first(lease, memory), "{lease} delays {first} at {name:?}");
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn claimed_memory_goes_to_the_claimant_or_a_higher_class(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            let (then, now) = (pools(step.between, &world.facts), pools(&world.engine, &world.facts));
            for decision in step.decisions {
                let Decision::Grant { lease, placement, .. } = decision else { continue };
                let class = world.engine.lease(lease).unwrap().class;
                let place = place_of(&world.engine.request(lease).unwrap());
                let queued = step.between.lease(lease).is_some_and(|l| l.placement.is_none());
                for (name, _) in parts(placement).into_iter().filter(|_| queued) {
                    let claims = then[&name].claims.iter().filter(|(who, _)| now[&name].claims.contains_key(*who));
                    let kept = claims.filter(|(_, (of, _, theirs))| *of >= class || *theirs < place);
                    let kept: u64 = kept.map(|(_, (_, memory, _))| memory).sum();
                    let higher = step.decisions.iter().any(|d| matches!(d, Decision::Grant { lease: other, placement, .. }
                        if world.engine.lease(other).unwrap().class > class && parts(placement).iter().any(|(at, _)| *at == name)));
                    prop_assert!(higher || now[&name].free() >= kept, "{lease} took of {kept} at {name:?}");
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn victims_are_lower_unprotected_and_within_their_budget(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            for decision in step.decisions {
                match decision {
                    Decision::Claim { lease, victims, .. } => {
                        let class = world.engine.lease(lease).unwrap().class;
                        // One that was placed here claimed before the decision.
                        let claimed = step.between.lease(lease).is_some_and(|l| l.placement.is_some());
                        let then = if claimed { step.before } else { step.between };
                        for victim in victims {
                            let fine = may_be_victim(then, victim, class, step.now);
                            prop_assert!(fine.is_ok(), "{victim} {fine:?}");
                        }
                    }
                    Decision::Notice { lease, notice } if notice.reason == EndReason::Preempted => {
                        prop_assert!(notice.class > Some(world.engine.lease(lease).unwrap().class), "{lease} for {notice:?}");
                        let asked = notice.needed.iter().any(|m| !m.is_zero()) || !notice.needed_ram.is_zero();
                        prop_assert!(asked, "{lease} is asked for nothing");
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn nobody_of_an_equal_or_lower_class_is_preempted_for_and_urgent_never_gives_way(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, step| {
            for was in step.between.leases().iter().filter(|l| matches!(l.phase, Phase::Active { .. })) {
                let is = world.engine.lease(&was.id).unwrap();
                let told = matches!(&is.phase, Phase::Revoking { notice, .. } if notice.reason == EndReason::Preempted);
                prop_assert!(!told || was.class != Class::Urgent, "{} gives way", was.id);
                prop_assert!(told || matches!(is.phase, Phase::Active { .. }), "{} is {:?}", was.id, is.phase);
            }
            Ok(())
        })?;
    }

    #[test]
    fn deciding_again_decides_nothing(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |world, _| {
            let mut again = world.engine.clone();
            prop_assert_eq!(again.decide(world.now()), vec![]);
            prop_assert_eq!(again.leases(), world.engine.leases());
            prop_assert!(again.next_wake().is_none_or(|wake| wake > world.now()), "it would be woken at once for ever");
            Ok(())
        })?;
    }

    #[test]
    fn a_forecast_is_what_then_happens(nodes in nodes(), events in events(), ask in ask()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |_, _| Ok(()))?;
        let request = world.request(&ask);
        let forecast = world.engine.dry_run(&request, world.now()).unwrap();
        world.engine.submit(request.clone()).unwrap();
        let decisions = world.engine.decide(world.now());
        let own = decisions.iter().find_map(|d| match d {
            Decision::Grant { lease, placement, .. } if *lease == request.id => Some((placement.clone(), vec![])),
            Decision::Claim { lease, placement, victims } if *lease == request.id => Some((placement.clone(), victims.clone())),
            _ => None,
        });
        match forecast {
            Forecast::Grant(placement) => prop_assert_eq!(own, Some((placement, vec![]))),
            Forecast::Preempt { placement, victims } => prop_assert_eq!(own, Some((placement, victims))),
            Forecast::Wait { satisfiable, .. } => {
                prop_assert_eq!(own, None);
                prop_assert_eq!(satisfiable, could_ever(&request, &world.facts));
            }
        }
    }

    #[test]
    fn everybody_is_served_and_ends_when_the_holders_obey(nodes in nodes(), events in events()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |_, _| Ok(()))?;
        world.heal();
        for _ in 0..400 {
            world.engine.decide(world.now());
            world.secs += 1;
            for lease in world.engine.leases() {
                match lease.phase {
                    Phase::Reserved { .. } => drop(world.engine.activate(&lease.id, world.now()).unwrap()),
                    Phase::Active { .. } => world.engine.stop(&lease.id, EndReason::Released).unwrap(),
                    Phase::Revoking { .. } | Phase::Stopping { .. } => drop(world.engine.end(&lease.id, EndReason::Exited).unwrap()),
                    Phase::Waiting | Phase::Ended(_) => {}
                }
            }
        }
        for lease in world.engine.leases() {
            let request = world.engine.request(&lease.id).unwrap();
            prop_assert!(!could_ever(&request, &world.facts), "{} is never served: {lease:?}", lease.id);
        }
    }

    #[test]
    fn nobody_is_passed_for_ever(nodes in nodes(), events in events(), ask in ask()) {
        let mut world = World::new(&nodes);
        world.live(&events, &mut |_, _| Ok(()))?;
        world.heal();
        let waiting = world.request(&ask);
        if !could_ever(&waiting, &world.facts) {
            return Ok(());
        }
        world.engine.submit(waiting.clone()).unwrap();
        // Equals keep coming, small and one at a time; everybody who runs ends after a while.
        for round in 0..200u64 {
            world.happen_small(waiting.class);
            world.engine.decide(world.now());
            world.secs += 10;
            for lease in world.engine.leases() {
                match lease.phase {
                    Phase::Reserved { .. } => drop(world.engine.activate(&lease.id, world.now()).unwrap()),
                    Phase::Active { since } if world.now().since(since).millis() >= 30_000 + (round % 3) * 10_000 => {
                        world.engine.end(&lease.id, EndReason::Released).unwrap();
                    }
                    Phase::Revoking { .. } | Phase::Stopping { .. } => drop(world.engine.end(&lease.id, EndReason::Exited).unwrap()),
                    _ => {}
                }
            }
        }
        prop_assert!(world.engine.lease(&waiting.id).is_none(), "{:?}", world.engine.lease(&waiting.id));
    }
}
