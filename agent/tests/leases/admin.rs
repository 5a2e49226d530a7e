//! What root asks for: to empty the machine, to ask a holder to go, to clean up.

use memboss_agent_api::v1::{
    AcquireRequest, CleanupRequest, DrainRequest, LeaseRequest, Phase, PreemptRequest, ResizeRequest, UndrainRequest,
};
use tonic::Code;

use crate::bed::{Bed, GPU, acquire, all, lease, until, until_phase, vram};
use crate::part::{Part, Role};

fn drain(gpus: &[&str]) -> DrainRequest {
    DrainRequest { gpus: gpus.iter().map(|uuid| (*uuid).to_owned()).collect(), ..DrainRequest::default() }
}

#[tokio::test]
async fn a_drained_gpu_tells_its_holders_and_grants_nothing_until_it_is_opened() {
    let bed = Bed::new().await;
    let mut low = acquire(&bed, AcquireRequest { class: "low".into(), ..vram(8) }).await;
    let low_id = lease(&until_phase(&mut low, Phase::Active).await).lease.clone();
    let mut high = acquire(&bed, AcquireRequest { class: "high".into(), notice_ms: 300_000, ..vram(8) }).await;
    let high_id = lease(&until_phase(&mut high, Phase::Active).await).lease.clone();
    let dry = DrainRequest { dry_run: true, ..drain(&[GPU]) };
    let mut told = bed.root().await.drain(dry).await.unwrap().into_inner();
    let [first] = all(&mut told).await.try_into().unwrap();
    let concerned: Vec<&str> = first.remaining.iter().map(|lease| lease.lease.as_str()).collect();
    assert_eq!((concerned.as_slice(), first.done), ([low_id.as_str(), high_id.as_str()].as_slice(), false));
    assert_eq!(first.remaining[0].phase(), Phase::Active, "a dry run changes nothing");

    let mut told = bed.root().await.drain(drain(&[GPU])).await.unwrap().into_inner();
    let notice = lease(&until_phase(&mut low, Phase::Revoking).await).notice.clone().unwrap();
    assert_eq!((notice.reason.as_str(), notice.needed_mib.as_slice()), ("Drained", [8 * 1024].as_slice()));
    until_phase(&mut high, Phase::Revoking).await;
    let mut late = acquire(&bed, vram(1)).await;
    until_phase(&mut late, Phase::Waiting).await;
    for id in [low_id, high_id] {
        bed.client().await.release(LeaseRequest { lease: id }).await.unwrap();
    }
    let last = all(&mut told).await.pop().unwrap();
    assert!(last.done && last.gone == 2 && last.remaining.is_empty(), "{last:?}");

    let bed = bed.crash().await;
    let refused = bed.client().await.acquire(AcquireRequest { no_wait: true, ..vram(1) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "closed also for the next agent");
    bed.root().await.undrain(UndrainRequest { gpus: vec![GPU.into()], node: false }).await.unwrap();
    let mut first = acquire(&bed, vram(1)).await;
    until_phase(&mut first, Phase::Active).await;
}

#[tokio::test]
async fn at_its_deadline_a_drain_ends_whoever_is_still_there_and_it_names_what_is_closed() {
    let bed = Bed::new().await;
    let asked = bed.dir.path().join("asked");
    let role = Role { class: "normal", gib: 4, stubborn: Some(asked), ..Role::default() };
    let mut holder = Part::begin(&bed.socket(), &role);
    holder.until_active().await;
    let request = DrainRequest { node: true, deadline_ms: 1, ..DrainRequest::default() };
    let mut told = bed.root().await.drain(request).await.unwrap().into_inner();
    let last = all(&mut told).await.pop().unwrap();
    assert!(last.done && last.gone == 1, "{last:?}");
    holder.until("ENDED").await;
    let refused = bed.root().await.drain(DrainRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "nobody empties everything by leaving something out");
    let refused = bed.root().await.drain(drain(&["GPU-z"])).await.unwrap_err();
    assert!(refused.code() == Code::NotFound && refused.message().contains(GPU), "{refused:?}");
}

#[tokio::test]
async fn root_asks_a_holder_to_go_and_sees_before_what_comes_of_it() {
    let bed = Bed::new().await;
    let mut held = acquire(&bed, AcquireRequest { ram_mib: 512, ..vram(20) }).await;
    let id = lease(&until_phase(&mut held, Phase::Active).await).lease.clone();
    let mut waits = acquire(&bed, vram(20)).await;
    let waiting = lease(&until_phase(&mut waits, Phase::Waiting).await).lease.clone();
    let ask = PreemptRequest { lease: id.clone(), dry_run: true, force: false };
    let told = bed.root().await.preempt(ask.clone()).await.unwrap().into_inner();
    assert_eq!((told.gpus[0].index, told.gpus[0].memory_mib, told.ram_mib), (3, 20 * 1024, 512));
    assert_eq!((told.waiting.as_slice(), told.lease.unwrap().phase()), ([waiting.clone()].as_slice(), Phase::Active));
    bed.root().await.preempt(PreemptRequest { dry_run: false, ..ask }).await.unwrap();
    let notice = lease(&until_phase(&mut held, Phase::Revoking).await).notice.clone().unwrap();
    assert_eq!((notice.reason.as_str(), notice.preemptor.as_str()), ("Preempted", ""));
    bed.client().await.release(LeaseRequest { lease: id }).await.unwrap();
    until_phase(&mut waits, Phase::Active).await;
    let nothing = PreemptRequest { lease: "user-0/none".into(), ..PreemptRequest::default() };
    assert_eq!(bed.root().await.preempt(nothing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn cleaning_up_ends_nothing_that_is_alive() {
    let bed = Bed::patient().await;
    let mut held = acquire(&bed, vram(4)).await;
    until_phase(&mut held, Phase::Active).await;
    let broken = acquire(&bed, vram(4)).await;
    drop(broken);
    let told = bed.root().await.cleanup(CleanupRequest { dry_run: false, ram_only: false }).await.unwrap().into_inner();
    assert!(told.ended.is_empty(), "one listens, the other may still be taken up: {told:?}");
    assert_eq!(bed.status().await.leases.len(), 2);
}

#[tokio::test]
async fn a_part_given_back_serves_the_next_and_ram_takes_what_moves_there() {
    let bed = Bed::new().await;
    let mut held = acquire(&bed, AcquireRequest { ram_mib: 1024, can_offload: true, ..vram(20) }).await;
    let id = lease(&until_phase(&mut held, Phase::Active).await).lease.clone();
    bed.uses(18);
    bed.until(|status| {
        status.leases.first().is_some_and(|lease| lease.holder.as_ref().unwrap().used_mib == Some(18 * 1024))
    })
    .await;
    let mut waits = acquire(&bed, vram(10)).await;
    until_phase(&mut waits, Phase::Waiting).await;
    let mut client = bed.client().await;
    let smaller = ResizeRequest { lease: id.clone(), memory_mib: vec![8 * 1024], ..ResizeRequest::default() };
    let asked = tokio::spawn(async move { client.resize(smaller).await });
    // What is still used stays charged; once it is seen free, the next one has it.
    bed.uses(6);
    let now = asked.await.unwrap().unwrap().into_inner().lease.unwrap();
    assert_eq!((now.gpus[0].memory_mib, now.ram_mib), (8 * 1024, 1024));
    until_phase(&mut waits, Phase::Active).await;
    let less_ram = ResizeRequest { lease: id.clone(), ram_mib: Some(256), ..ResizeRequest::default() };
    let now = bed.client().await.resize(less_ram).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((now.gpus[0].memory_mib, now.ram_mib), (8 * 1024, 256));
    let into_ram = |more_ram_mib| memboss_agent_api::v1::MoveRequest {
        lease: id.clone(),
        memory_mib: vec![6 * 1024],
        more_ram_mib,
        notice_id: String::new(),
    };
    let refused = bed.client().await.r#move(into_ram(2049)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let now = bed.client().await.r#move(into_ram(2048)).await.unwrap().into_inner().lease.unwrap();
    assert_eq!((now.gpus[0].memory_mib, now.ram_mib), (6 * 1024, 2304));
    until(&mut held, |event| lease(event).ram_mib == 2304).await;
    for (wrong, code) in [
        (ResizeRequest { memory_mib: vec![9 * 1024], ..ResizeRequest::default() }, Code::InvalidArgument),
        (ResizeRequest { memory_mib: vec![1, 1], ..ResizeRequest::default() }, Code::InvalidArgument),
        (ResizeRequest { ram_mib: Some(9999), ..ResizeRequest::default() }, Code::InvalidArgument),
        (ResizeRequest { notice_id: "old".into(), ..ResizeRequest::default() }, Code::FailedPrecondition),
    ] {
        let refused = bed.client().await.resize(ResizeRequest { lease: id.clone(), ..wrong }).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
}
