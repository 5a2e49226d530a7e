//! From the API's words to the types of `memboss-core`: the one place where an amount, a slot or a lease's wishes are read, for the agent and the
//! operator alike. It may refuse what makes no sense; it decides nothing.

use k8s_openapi::jiff::Timestamp;
use memboss_core::{
    BadName, Demand, Flexibility, GpuModel, GpuShare, GpuUuid, LeaseId, Moment, NotAShare, Percent, Request, Span,
};

use crate::memory_node::Gpu;
use crate::quantity::{NotMemory, parse_mib};
use crate::vram_lease::{GpuSelector, Slot, VramLease};

/// A field that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Senseless {
    /// An amount that is none.
    #[error(transparent)]
    Memory(NotMemory),
    /// A percentage that is none.
    #[error(transparent)]
    Share(NotAShare),
    /// A name that is none.
    #[error(transparent)]
    Name(BadName),
}

impl TryFrom<&Slot> for memboss_core::Slot {
    type Error = Senseless;
    fn try_from(slot: &Slot) -> Result<Self, Senseless> {
        let fixed = slot.memory.as_deref().map(parse_mib).transpose().map_err(Senseless::Memory)?;
        let share = slot.percent.map(|percent| Percent::new(u64::from(percent))).transpose();
        Ok(Self { fixed: fixed.unwrap_or_default(), share: share.map_err(Senseless::Share)? })
    }
}

/// An amount on a GPU, as status fields have it.
///
/// # Errors
/// [`Senseless`] when the UUID or the amount is none.
pub fn gpu_share(uuid: &str, memory: &str) -> Result<GpuShare, Senseless> {
    let uuid = GpuUuid::new(uuid).map_err(Senseless::Name)?;
    Ok(GpuShare { uuid, memory: parse_mib(memory).map_err(Senseless::Memory)? })
}

impl TryFrom<&GpuSelector> for memboss_core::GpuSelector {
    type Error = Senseless;

    fn try_from(written: &GpuSelector) -> Result<Self, Senseless> {
        let uuids = written.uuids.iter().map(|uuid| GpuUuid::new(uuid.clone()).map_err(Senseless::Name));
        Ok(Self { models: written.models.clone(), uuids: uuids.collect::<Result<_, _>>()? })
    }
}

impl Gpu {
    /// What it is called and what it is, in the words of the rules.
    ///
    /// # Errors
    /// [`Senseless`] when its UUID or its model is none.
    pub fn named(&self) -> Result<(GpuUuid, GpuModel), Senseless> {
        let uuid = GpuUuid::new(self.uuid.clone()).map_err(Senseless::Name)?;
        Ok((uuid, GpuModel::from_product(&self.model).map_err(Senseless::Name)?))
    }
}

impl VramLease {
    /// Its place in the queue, as milliseconds of the calendar: leases are compared with one another alone, so the origin does not matter.
    #[must_use]
    pub fn queued_at(&self) -> Moment {
        let said = self.spec.queued_at.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        let made = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Moment::from_millis(said.or(made).map_or(0, |at| u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }

    /// Its request for that demand: class, place in the queue, and what it wishes when it is asked to give way. Which GPUs and nodes will do is for
    /// the caller to say.
    #[must_use]
    pub fn request(&self, id: LeaseId, demand: Demand) -> Request {
        let spec = &self.spec;
        let seconds = |wish: Option<u32>| wish.map(|seconds| Span::from_secs(u64::from(seconds)));
        let mut request = Request::new(id, spec.class.into(), demand, self.queued_at());
        request.flexibility = Flexibility { shrinks: spec.can_shrink, offloads: spec.can_offload };
        request.notice = seconds(spec.notice_seconds);
        request.protection = seconds(spec.protection_seconds);
        request.preempted = spec.preempted;
        request
    }
}
