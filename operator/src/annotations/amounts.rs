//! Amounts as people write them, and what comes of several containers' amounts together. Pure: it may not know of pods.

use memboss_core::{Mib, Percent, UNIT};
use memboss_crds::{ContainerSlots, Slot, parse_mib, quantity};

/// A lease spans no more.
pub(super) const MOST_GPUS: usize = 16;

/// One container's ask: so much on each of so many GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) container: String,
    pub(super) gpus: usize,
    pub(super) each: Amount,
}

/// An amount on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So much, rounded up to the unit.
    Fixed(Mib),
    /// A share.
    Share(Percent),
}

/// A plain number below 1Mi is units; anything with a unit, and 1Mi or more, is bytes.
pub(super) fn resource_amount(text: &str) -> Option<Mib> {
    if let Ok(number) = text.parse::<u64>()
        && number < 1 << 20
    {
        return (number > 0).then(|| Mib::from_mib(number.saturating_mul(UNIT.mib())));
    }
    parse_mib(text).ok().filter(|mib| !mib.is_zero()).map(|mib| mib.round_up_to(UNIT))
}

/// `8Gi`, `2x8Gi`, `50%`: GPUs, and the amount on each.
#[must_use]
pub fn amount(text: &str) -> Option<(usize, Amount)> {
    let (gpus, each) = match text.split_once('x') {
        Some((gpus, each)) => (gpus.bytes().all(|b| b.is_ascii_digit()).then(|| gpus.parse().ok())??, each),
        None => (1, text),
    };
    if !(1..=MOST_GPUS).contains(&gpus) {
        return None;
    }
    if let Some(percent) = each.strip_suffix('%') {
        let whole = percent.bytes().all(|b| b.is_ascii_digit());
        return Percent::new(whole.then(|| percent.parse().ok())??).ok().map(|share| (gpus, Amount::Share(share)));
    }
    let memory = parse_mib(each).ok().filter(|mib| !mib.is_zero() && mib.mib() < 1 << 32)?;
    Some((gpus, Amount::Fixed(memory.round_up_to(UNIT))))
}

/// Slots: containers share GPUs from the first on, or each has its own. The largest sum of shares of one GPU comes too, if it is more than all of it.
pub(super) fn lay_out(asks: &[Ask], separate: bool) -> (Vec<Slot>, Vec<ContainerSlots>, Option<u64>) {
    let mut sums: Vec<(Mib, u64)> = Vec::new();
    let mut containers = Vec::new();
    for ask in asks {
        let first = if separate { sums.len() } else { 0 };
        let used = first..first + ask.gpus;
        sums.resize(sums.len().max(used.end), (Mib::ZERO, 0));
        let part = match ask.each {
            Amount::Fixed(memory) => Slot { memory: Some(quantity(memory)), percent: None },
            Amount::Share(percent) => Slot { memory: None, percent: Some(percent.get()) },
        };
        for sum in &mut sums[used.clone()] {
            match ask.each {
                Amount::Fixed(memory) => sum.0 = sum.0.plus(memory),
                Amount::Share(percent) => sum.1 += u64::from(percent.get()),
            }
        }
        let slots = used.clone().filter_map(|slot| u32::try_from(slot).ok()).collect();
        containers.push(ContainerSlots {
            name: ask.container.clone(),
            slots,
            asks: used.map(|_| part.clone()).collect(),
        });
    }
    let slot = |(memory, percent): (Mib, u64)| Slot {
        memory: (!memory.is_zero()).then(|| quantity(memory)),
        percent: (percent > 0).then(|| u8::try_from(percent.min(100)).unwrap_or(100)),
    };
    let over = sums.iter().map(|(_, percent)| *percent).max().filter(|percent| *percent > 100);
    (sums.into_iter().map(slot).collect(), containers, over)
}

/// `8Gi`, `2x8Gi`, `8Gi+4Gi`, `50%`.
pub(super) fn display(slots: &[Slot]) -> String {
    let one = |slot: &Slot| match (&slot.memory, slot.percent) {
        (Some(memory), Some(percent)) => format!("{memory}+{percent}%"),
        (Some(memory), None) => memory.clone(),
        (None, percent) => format!("{}%", percent.unwrap_or_default()),
    };
    let all: Vec<_> = slots.iter().map(one).collect();
    match all.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|other| other == first) => {
            format!("{}x{first}", all.len())
        }
        _ => all.join("+"),
    }
}
