//! The order of the queue. It may not know what is free.
//!
//! A lease's key never changes: `enqueued − aging × rank`. Both sides age alike, so the difference of two keys is the same for ever and nothing
//! has to be sorted again. URGENT stands before all others. Leases that ask for the same (class, demand, selectors) form one *line*: when its
//! first does not fit, none of it does, so a decision looks at lines, not at leases, and stays as quick with 100,000 waiting as with 10.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::ensure;
use crate::class::Class;
use crate::place::Fits;
use crate::policy::Policy;
use crate::pool::LeaseIx;
use crate::request::{Demand, GpuSelector, Layout, NodeSelector, Request};
use crate::units::{Mib, Moment};

/// A line's place in the table.
pub(crate) type LineIx = u32;

/// The order in the queue: the smaller, the earlier. The last part makes it total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    ordinary: bool,
    aged: i128,
    arrival: u64,
}

impl OrderKey {
    /// The key of a request that arrived as the `arrival`-th.
    #[must_use]
    pub fn new(policy: &Policy, class: Class, enqueued: Moment, arrival: u64) -> Self {
        let bonus = i128::from(policy.aging_per_class.millis()) * class.rank() as i128;
        Self { ordinary: class != Class::Urgent, aged: i128::from(enqueued.millis()) - bonus, arrival }
    }

    /// The how many-th it came as.
    pub(crate) const fn arrival(self) -> u64 {
        self.arrival
    }
}

/// What makes two requests the same but for their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineKey {
    pub(crate) class: Class,
    demand: Demand,
    gpus: GpuSelector,
    nodes: NodeSelector,
    layout: Layout,
}

impl LineKey {
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            class: request.class,
            demand: request.demand.clone(),
            gpus: request.gpus.clone(),
            nodes: request.nodes.clone(),
            layout: request.layout,
        }
    }
}

/// The waiters that ask for the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) waiting: BTreeSet<(OrderKey, LeaseIx)>,
    /// Its first has not been looked at since it came to the front.
    pub(crate) fresh: bool,
    /// What the largest place for it is and whether it fits there, and the inventory for which that is true.
    pub(crate) largest: Option<(u64, Mib, Fits)>,
}

/// How many stand before that place: counted from both ends at once, so that whoever comes last is found as soon as who is first.
fn before(waiting: &BTreeSet<(OrderKey, LeaseIx)>, at: (OrderKey, LeaseIx)) -> usize {
    let (mut earlier, mut later) = (waiting.range(..at), waiting.range(at..));
    let mut count = 0;
    loop {
        if earlier.next().is_none() {
            return count;
        }
        if later.next().is_none() {
            return waiting.len() - count;
        }
        count += 1;
    }
}

/// The waiters, line by line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    by_key: BTreeMap<LineKey, LineIx>,
    lines: BTreeMap<LineIx, (LineKey, Line)>,
    heads: BTreeSet<(OrderKey, LineIx)>,
    next_line: LineIx,
    length: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The line that it stands in now, and whom it took the front of it from.
    pub(crate) fn push(&mut self, request: &Request, key: OrderKey, lease: LeaseIx) -> (LineIx, Option<LeaseIx>) {
        let line_key = LineKey::of(request);
        let next = self.next_line;
        let line_ix = *self.by_key.entry(line_key.clone()).or_insert(next);
        if line_ix == next {
            self.next_line += 1;
        }
        let (_, line) = self.lines.entry(line_ix).or_insert_with(|| (line_key, Line::default()));
        let former = line.waiting.first().copied();
        let old_head = former.map(|(key, _)| key);
        if line.waiting.insert((key, lease)) {
            self.length += 1;
        }
        let head = line.waiting.first().map_or(key, |(key, _)| *key);
        if old_head != Some(head) {
            line.fresh = true;
            if let Some(old) = old_head {
                self.heads.remove(&(old, line_ix));
            }
            self.heads.insert((head, line_ix));
        }
        (line_ix, former.filter(|_| old_head != Some(head)).map(|(_, lease)| lease))
    }

    pub(crate) fn remove(&mut self, line_ix: LineIx, key: OrderKey, lease: LeaseIx) {
        let Some((line_key, line)) = self.lines.get_mut(&line_ix) else { return };
        if !line.waiting.remove(&(key, lease)) {
            return;
        }
        self.length -= 1;
        if self.heads.remove(&(key, line_ix)) {
            line.fresh = true;
            if let Some((head, _)) = line.waiting.first() {
                self.heads.insert((*head, line_ix));
            }
        }
        if line.waiting.is_empty() {
            self.by_key.remove(line_key);
            self.lines.remove(&line_ix);
        }
    }

    /// The lines' first waiters, earliest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (OrderKey, LineIx)> + '_ {
        self.heads.iter().copied()
    }

    pub(crate) fn head_of(&self, line: LineIx) -> Option<(OrderKey, LeaseIx)> {
        self.lines.get(&line).and_then(|(_, line)| line.waiting.first().copied())
    }

    pub(crate) fn line_mut(&mut self, line: LineIx) -> Option<&mut Line> {
        self.lines.get_mut(&line).map(|(_, line)| line)
    }

    pub(crate) fn line(&self, line: LineIx) -> Option<&Line> {
        self.lines.get(&line).map(|(_, line)| line)
    }

    /// The lines whose first has not been looked at.
    pub(crate) fn fresh(&self) -> impl Iterator<Item = (OrderKey, LineIx)> + '_ {
        self.heads.iter().copied().filter(|(_, ix)| self.lines.get(ix).is_some_and(|(_, line)| line.fresh))
    }

    /// All waiters, earliest first.
    pub(crate) fn in_order(&self) -> Vec<(OrderKey, LeaseIx)> {
        let mut all: Vec<_> = self.lines.values().flat_map(|(_, line)| line.waiting.iter().copied()).collect();
        all.sort_unstable();
        all
    }

    /// How many stand before that key.
    pub(crate) fn ahead_of(&self, key: OrderKey) -> usize {
        self.lines.values().map(|(_, line)| before(&line.waiting, (key, 0))).sum()
    }

    /// Compares the count, the heads and the keys with the lines.
    pub(crate) fn check(&self) -> Result<(), String> {
        let count: usize = self.lines.values().map(|(_, line)| line.waiting.len()).sum();
        ensure(count == self.length, || format!("{count} wait, {} are counted", self.length))?;
        let first = |(ix, (_, line)): (&LineIx, &(LineKey, Line))| line.waiting.first().map(|(key, _)| (*key, *ix));
        let heads: BTreeSet<_> = self.lines.iter().filter_map(first).collect();
        ensure(heads == self.heads, || "the heads are not the lines' first".to_owned())?;
        let keyed =
            self.lines.iter().all(|(ix, (key, line))| self.by_key.get(key) == Some(ix) && !line.waiting.is_empty());
        ensure(keyed && self.by_key.len() == self.lines.len(), || "a line is not under its key, or empty".to_owned())
    }
}
