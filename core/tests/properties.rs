//! What must hold in every world and every order of events. Each property is tried in very many; `MEMBOSS_PROPTEST_CASES` (or `PROPTEST_CASES`) says how many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "nobody uses a test")]

#[path = "properties/driver.rs"]
mod driver;
#[path = "properties/fairness.rs"]
mod fairness;
#[path = "properties/memory.rs"]
mod memory;
#[path = "properties/naive.rs"]
mod naive;
mod world;

use proptest::test_runner::Config;

#[allow(clippy::disallowed_methods, reason = "the tests' settings come from outside; the rules' do not")]
fn many() -> Config {
    let said =
        ["MEMBOSS_PROPTEST_CASES", "PROPTEST_CASES"].iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    let cases = said.unwrap_or(10_000);
    Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() }
}
