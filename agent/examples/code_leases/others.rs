//! Other languages on the same agent, and `reslock` on the same machine. Each program prints lines of `name<tab>p50<tab>p99` or `name<tab>rate`.

use anyhow::Result;

use crate::agent::Agent;
use crate::table::Table;

pub(crate) fn measure(_agent: &Agent, _table: &mut Table) -> Result<()> {
    Ok(())
}
