//! The model: its states, its steps, and what must hold in all of them.

use stateright::{Model, Property};

pub(super) const LEASES: usize = 4;
/// What the GPU has, and what each lease asks, in units.
pub(super) const CAPACITY: u8 = 3;
pub(super) const SIZE: [u8; LEASES] = [2, 1, 2, 3];
/// The higher, the more.
pub(super) const CLASS: [u8; LEASES] = [0, 0, 1, 2];

/// Which rules hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// Memory counts as free when a deadline is over, not when it is seen free.
    pub(super) free_on_expiry: bool,
    /// What a preemption frees is anybody's.
    pub(super) no_reservation: bool,
    /// The agent believes Redis instead of its ledger.
    pub(super) redis_is_truth: bool,
    /// The agent obeys a leader that is one no longer.
    pub(super) accept_old_epoch: bool,
    /// How many placements each lease may see, and faults of each kind.
    pub(super) attempts: u8,
    pub(super) faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    Waiting,
    Refused,
    Claimed,
    Reserved,
    Active,
    Revoking,
    Stopping,
    Ended,
}

impl Phase {
    const fn is_charged(self) -> bool {
        matches!(self, Self::Reserved | Self::Active | Self::Revoking | Self::Stopping)
    }
}

/// A placement: which attempt, by which leader, whether lower classes may be asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Order {
    attempt: u8,
    epoch: u8,
    preempts: bool,
}

/// An order on its way to the API server, as its leader decided it on what it saw then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sent {
    lease: u8,
    order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The API server: the placement, and what the agent published last.
    placed: [Option<Order>; LEASES],
    published: [(Phase, u8); LEASES],
    /// The agent's ledger: phase, which attempt it answers, the grant's token.
    ledger: [(Phase, u8); LEASES],
    token: [u8; LEASES],
    last_token: u8,
    seen_epoch: u8,
    up: bool,
    quarantine: bool,
    /// Whose claim a victim is leaving for.
    leaving_for: [Option<u8>; LEASES],
    /// What is really in the GPU's memory.
    resident: [bool; LEASES],
    /// Whose holder has gone: its pod is over and never comes again.
    gone: [bool; LEASES],
    /// Messages under way.
    net: Vec<Sent>,
    epoch: u8,
    redis_free: u8,
    crashes: u8,
    losses: u8,
    flushes: u8,
    /// What must never happen, noted when it did.
    stolen: bool,
    old_obeyed: bool,
    token_fell: bool,
    wrong_victim: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A leader of that epoch decides on what it sees and sends the order.
    Decide {
        lease: u8,
        epoch: u8,
    },
    /// An order arrives, and may arrive again.
    Arrive {
        message: u8,
        again: bool,
    },
    /// An order is lost.
    Lose {
        message: u8,
    },
    /// The agent reads a lease's placement.
    Read(u8),
    /// The agent's word on a lease arrives.
    Publish(u8),
    /// The holder comes, having seen its lease reserved.
    Come(u8),
    /// The holder goes, or was ended. It may take its time: it may have been stopped, or ignore what it is told.
    Go(u8),
    /// A notice's time is over.
    Deadline(u8),
    /// The agent sees that a lease's memory is free.
    SeeFree(u8),
    NewLeader,
    Crash,
    Restart,
    LoseLedger,
    Rebuild,
    /// The agent tells Redis what is free; Redis is emptied.
    Beat,
    Flush,
}

impl State {
    fn charged(&self) -> u8 {
        (0..LEASES).filter(|l| self.ledger[*l].0.is_charged()).map(|l| SIZE[l]).sum()
    }

    fn claimed_from(&self, class: u8) -> u8 {
        (0..LEASES).filter(|l| self.ledger[*l].0 == Phase::Claimed && CLASS[*l] >= class).map(|l| SIZE[l]).sum()
    }

    /// `Pool::free_for`.
    fn free_for(&self, lease: usize, rules: Rules) -> u8 {
        let free = if rules.redis_is_truth { self.redis_free } else { CAPACITY.saturating_sub(self.charged()) };
        if rules.no_reservation { free } else { free.saturating_sub(self.claimed_from(CLASS[lease])) }
    }

    fn grant(&mut self, lease: usize) {
        self.last_token += 1;
        self.token_fell |= self.last_token <= self.token[lease];
        self.token[lease] = self.last_token;
        // Memory that a preemption freed for one who still waits went to somebody who is not above it.
        let waits = |l: usize| {
            l != lease
                && self.ledger[l].0 == Phase::Claimed
                && CLASS[l] >= CLASS[lease]
                && SIZE[l]
                    > CAPACITY - self.charged().min(CAPACITY) - SIZE[lease].min(CAPACITY - self.charged().min(CAPACITY))
        };
        self.stolen |= (0..LEASES).any(waits) && self.ledger[lease].0 != Phase::Claimed;
        self.ledger[lease].0 = Phase::Reserved;
        self.redis_free = self.redis_free.saturating_sub(SIZE[lease]);
    }

    /// `Engine::admit`: charged, or claimed with victims, or refused.
    fn admit(&mut self, lease: usize, order: Order, rules: Rules) {
        self.ledger[lease].1 = order.attempt;
        if order.epoch < self.seen_epoch && !rules.accept_old_epoch {
            self.ledger[lease].0 = Phase::Refused;
            return;
        }
        self.old_obeyed |= order.epoch < self.seen_epoch;
        self.seen_epoch = self.seen_epoch.max(order.epoch);
        let free = self.free_for(lease, rules);
        if free >= SIZE[lease] {
            self.grant(lease);
            return;
        }
        let mut short = SIZE[lease] - free;
        let lower = |l: &usize| CLASS[*l] < CLASS[lease] && self.ledger[*l].0 == Phase::Active;
        let mut victims = Vec::new();
        for victim in (0..LEASES).filter(lower) {
            if short > 0 {
                short = short.saturating_sub(SIZE[victim]);
                victims.push(victim);
            }
        }
        if short > 0 || !order.preempts {
            self.ledger[lease].0 = Phase::Refused;
            return;
        }
        self.ledger[lease].0 = Phase::Claimed;
        for victim in victims {
            self.wrong_victim |= CLASS[victim] >= CLASS[lease];
            self.ledger[victim].0 = Phase::Revoking;
            self.leaving_for[victim] = Some(u8::try_from(lease).unwrap());
        }
    }

    /// `decide.rs`, `serve_claims`: the highest class first.
    fn serve_claims(&mut self) {
        let mut claims: Vec<usize> = (0..LEASES).filter(|l| self.ledger[*l].0 == Phase::Claimed).collect();
        claims.sort_by_key(|l| (std::cmp::Reverse(CLASS[*l]), *l));
        for lease in claims {
            let stronger: u8 = (0..LEASES)
                .filter(|l| {
                    *l != lease
                        && self.ledger[*l].0 == Phase::Claimed
                        && (CLASS[*l], usize::MAX - *l) > (CLASS[lease], usize::MAX - lease)
                })
                .map(|l| SIZE[l])
                .sum();
            if CAPACITY.saturating_sub(self.charged()).saturating_sub(stronger) >= SIZE[lease] {
                self.grant(lease);
            }
        }
    }

    fn end(&mut self, lease: usize) {
        self.ledger[lease].0 = Phase::Ended;
        self.redis_free = (self.redis_free + SIZE[lease]).min(CAPACITY);
        self.leaving_for[lease] = None;
        self.serve_claims();
    }

    /// What a leader sees: the API server alone.
    fn looks_free(&self, lease: usize) -> (u8, u8) {
        let published = |l: &usize| {
            self.published[*l].0.is_charged() && self.published[*l].1 == self.placed[*l].map_or(0, |o| o.attempt)
        };
        let pending = |l: &usize| self.placed[*l].is_some_and(|o| self.published[*l].1 != o.attempt);
        let used: u8 = (0..LEASES).filter(|l| *l != lease && (published(l) || pending(l))).map(|l| SIZE[l]).sum();
        let lower: u8 = (0..LEASES).filter(|l| published(l) && CLASS[*l] < CLASS[lease]).map(|l| SIZE[l]).sum();
        (CAPACITY.saturating_sub(used), lower)
    }

    fn is_queued(&self, lease: usize) -> bool {
        match self.placed[lease] {
            None => true,
            Some(order) => self.published[lease] == (Phase::Refused, order.attempt),
        }
    }
}

pub(super) struct Protocol(pub(super) Rules);

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            placed: [None; LEASES],
            published: [(Phase::Waiting, 0); LEASES],
            ledger: [(Phase::Waiting, 0); LEASES],
            token: [0; LEASES],
            last_token: 0,
            seen_epoch: 1,
            up: true,
            quarantine: false,
            leaving_for: [None; LEASES],
            resident: [false; LEASES],
            gone: [false; LEASES],
            net: Vec::new(),
            epoch: 1,
            redis_free: CAPACITY,
            crashes: 0,
            losses: 0,
            flushes: 0,
            stolen: false,
            old_obeyed: false,
            token_fell: false,
            wrong_victim: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let n = |l: usize| u8::try_from(l).unwrap();
        for lease in 0..LEASES {
            let attempt = state.placed[lease].map_or(0, |order| order.attempt);
            let sent = state.net.iter().any(|sent| usize::from(sent.lease) == lease);
            if state.is_queued(lease) && attempt < self.0.attempts && !sent {
                let (free, lower) = state.looks_free(lease);
                if free + lower >= SIZE[lease] {
                    // The leader, and one that does not know yet that it is none.
                    steps.extend(
                        (state.epoch.saturating_sub(1).max(1)..=state.epoch)
                            .map(|epoch| Step::Decide { lease: n(lease), epoch }),
                    );
                }
            }
            let (phase, answered) = state.ledger[lease];
            if state.up {
                if !state.quarantine
                    && state.placed[lease].is_some_and(|order| order.attempt != answered)
                    && !phase.is_charged()
                    && phase != Phase::Claimed
                {
                    steps.push(Step::Read(n(lease)));
                }
                if state.published[lease] != (phase, answered) {
                    steps.push(Step::Publish(n(lease)));
                }
                if phase == Phase::Revoking {
                    steps.push(Step::Deadline(n(lease)));
                }
                if matches!(phase, Phase::Active | Phase::Revoking | Phase::Stopping)
                    && !state.resident[lease]
                    && !state.quarantine
                {
                    steps.push(Step::SeeFree(n(lease)));
                }
                if phase == Phase::Reserved
                    && state.published[lease].0 == Phase::Reserved
                    && !state.resident[lease]
                    && !state.gone[lease]
                {
                    steps.push(Step::Come(n(lease)));
                }
            }
            if state.resident[lease] {
                steps.push(Step::Go(n(lease)));
            }
        }
        for message in 0..state.net.len() {
            steps.extend([Step::Arrive { message: n(message), again: false }, Step::Lose { message: n(message) }]);
            steps.push(Step::Arrive { message: n(message), again: true });
        }
        if state.epoch < 1 + self.0.faults {
            steps.push(Step::NewLeader);
        }
        if state.up && state.crashes < self.0.faults {
            steps.push(Step::Crash);
        }
        if !state.up {
            steps.push(Step::Restart);
            if state.losses < self.0.faults {
                steps.push(Step::LoseLedger);
            }
        }
        if state.quarantine && state.up {
            steps.push(Step::Rebuild);
        }
        if self.0.redis_is_truth {
            steps.push(Step::Beat);
            if state.flushes < self.0.faults {
                steps.push(Step::Flush);
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Decide { lease, epoch } => {
                let l = usize::from(lease);
                let attempt = state.placed[l].map_or(0, |order| order.attempt) + 1;
                let preempts = state.looks_free(l).0 < SIZE[l];
                state.net.push(Sent { lease, order: Order { attempt, epoch, preempts } });
                state.net.sort_unstable();
                state.net.dedup();
            }
            Step::Arrive { message, again } => {
                let sent = state.net[usize::from(message)];
                if !again {
                    state.net.remove(usize::from(message));
                }
                let l = usize::from(sent.lease);
                // Compare and swap: only onto what its sender saw.
                if state.placed[l].map_or(0, |order| order.attempt) + 1 == sent.order.attempt {
                    state.placed[l] = Some(sent.order);
                }
            }
            Step::Lose { message } => drop(state.net.remove(usize::from(message))),
            Step::Read(lease) => {
                let order = state.placed[usize::from(lease)]?;
                state.admit(usize::from(lease), order, self.0);
            }
            Step::Publish(lease) => state.published[usize::from(lease)] = state.ledger[usize::from(lease)],
            Step::Come(lease) => {
                state.ledger[usize::from(lease)].0 = Phase::Active;
                state.resident[usize::from(lease)] = true;
            }
            Step::Go(lease) => {
                state.resident[usize::from(lease)] = false;
                state.gone[usize::from(lease)] = true;
            }
            Step::Deadline(lease) => {
                state.ledger[usize::from(lease)].0 = Phase::Stopping;
                if self.0.free_on_expiry {
                    state.end(usize::from(lease));
                }
            }
            Step::SeeFree(lease) => state.end(usize::from(lease)),
            Step::NewLeader => state.epoch += 1,
            Step::Crash => {
                state.up = false;
                state.crashes += 1;
            }
            Step::Restart => state.up = true,
            Step::LoseLedger => {
                state.losses += 1;
                state.quarantine = true;
                state.ledger = [(Phase::Waiting, 0); LEASES];
                state.leaving_for = [None; LEASES];
            }
            Step::Rebuild => {
                // From what was published, which pods are there still, and what is in memory. What was promised and not published was heard by nobody.
                for l in 0..LEASES {
                    let (phase, answered) = state.published[l];
                    let known = match phase {
                        _ if state.resident[l] && !phase.is_charged() => Phase::Active,
                        _ if state.gone[l] && !state.resident[l] => Phase::Ended,
                        Phase::Claimed => Phase::Refused,
                        phase => phase,
                    };
                    state.ledger[l] = (known, answered);
                }
                state.quarantine = false;
            }
            Step::Beat => state.redis_free = CAPACITY.saturating_sub(state.charged()),
            Step::Flush => {
                state.flushes += 1;
                state.redis_free = CAPACITY;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("memory in use and memory promised fit", |_, state: &State| {
                let used = |l: &usize| state.resident[*l] || (!state.quarantine && state.ledger[*l].0.is_charged());
                (0..LEASES).filter(used).map(|l| SIZE[l]).sum::<u8>() <= CAPACITY
            }),
            Property::always("freed memory goes to its preemptor or above", |_, state: &State| !state.stolen),
            Property::always("only the newest leader is obeyed", |_, state: &State| !state.old_obeyed),
            Property::always("tokens only grow", |_, state: &State| !state.token_fell),
            Property::always("a victim is of a lower class", |_, state: &State| !state.wrong_victim),
            Property::always("no claim is left when its memory is free", |_, state: &State| {
                let waits = |l: usize| {
                    state.ledger[l].0 == Phase::Claimed
                        && state.charged() + SIZE[l] + state.claimed_from(CLASS[l]) - SIZE[l] <= CAPACITY
                };
                state.quarantine || !(0..LEASES).any(waits)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.net.len() <= 3
    }
}
