//! A model of the protocol between operator, API server, agent, Redis and holders, explored exhaustively: one GPU, four leases of three classes, leaders
//! that change, an agent that crashes and loses its ledger, messages that are lost, late, and repeated, a Redis that is emptied. Each step mirrors a rule:
//! admission and claims `core/src/engine.rs` (`admit`) and `decide.rs` (`serve_claims`), victims `victims.rs`, ends `life.rs`, epochs the agent's orders.
//! Four rules can be switched off; the checker then has to find what they are there for.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::needless_range_loop,
    reason = "a model: small numbers by construction, one function for all steps, and counts that are to be seen"
)]

mod model;

use stateright::{Checker, Model};

use model::{Protocol, Rules};

fn rules() -> Rules {
    Rules { attempts: 2, faults: 1, ..Rules::default() }
}

fn explore(rules: Rules, until: usize) -> impl Checker<Protocol> {
    Protocol(rules).checker().threads(2).target_state_count(until).spawn_bfs().join()
}

#[test]
fn the_rules_hold_in_more_than_a_million_states() {
    let checker = explore(rules(), 20_000_000);
    println!("{} states, {} of them different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() >= 1_000_000, "only {}", checker.unique_state_count());
}

fn finds(rules: Rules, property: &'static str) {
    let checker = explore(rules, 4_000_000);
    let found = checker.discovery(property);
    assert!(found.is_some(), "with {rules:?} nothing was found in {} states", checker.unique_state_count());
    println!(
        "found in {} states: {}",
        checker.unique_state_count(),
        found
            .map(|path| path.into_actions().iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(", "))
            .unwrap_or_default()
    );
}

#[test]
fn freeing_by_a_timer_over_commits() {
    finds(Rules { free_on_expiry: true, ..rules() }, "memory in use and memory promised fit");
}

#[test]
fn without_a_reservation_the_freed_memory_is_stolen() {
    finds(Rules { no_reservation: true, ..rules() }, "freed memory goes to its preemptor or above");
}

#[test]
fn believing_redis_over_commits() {
    finds(Rules { redis_is_truth: true, ..rules() }, "memory in use and memory promised fit");
}

#[test]
fn an_old_leader_is_obeyed_if_its_epoch_is_not_looked_at() {
    finds(Rules { accept_old_epoch: true, ..rules() }, "only the newest leader is obeyed");
}
