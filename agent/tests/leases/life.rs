//! What becomes of a lease in code: granted, waiting, told to go, broken off and taken up again.

use memboss_agent_api::v1::{AcquireRequest, LeaseRequest, Outlook, Phase, ResumeRequest};
use tonic::Code;

use crate::bed::{Bed, acquire, lease, until_phase, vram};

#[tokio::test]
async fn vram_and_ram_are_granted_in_one_step_and_given_back() {
    let bed = Bed::new().await;
    let mut first = acquire(&bed, AcquireRequest { ram_mib: 2048, ..vram(16) }).await;
    let granted = until_phase(&mut first, Phase::Active).await;
    let held = lease(&granted);
    assert_eq!((held.gpus[0].uuid.as_str(), held.gpus[0].memory_mib, held.ram_mib), ("GPU-a", 16 * 1024, 2048));
    assert!(held.lease.starts_with("user-"), "{}", held.lease);
    let mut second = acquire(&bed, vram(16)).await;
    let waits = until_phase(&mut second, Phase::Waiting).await;
    let queue = waits.queue.as_ref().unwrap();
    assert_eq!((queue.position, queue.reason.as_str()), (1, "NoRoom"), "{queue:?}");
    bed.client().await.release(LeaseRequest { lease: held.lease.clone() }).await.unwrap();
    until_phase(&mut second, Phase::Active).await;
    assert_eq!(lease(&until_phase(&mut first, Phase::Ended).await).reason, "Released");
}

#[tokio::test]
async fn a_holder_of_a_lower_class_is_told_for_whom_and_by_when_and_gives_way() {
    let bed = Bed::new().await;
    let mut batch = acquire(&bed, AcquireRequest { class: "batch".into(), ..vram(20) }).await;
    let held = until_phase(&mut batch, Phase::Active).await;
    bed.uses(18);
    let mut urgent = acquire(&bed, AcquireRequest { class: "urgent".into(), ..vram(10) }).await;
    let told = until_phase(&mut batch, Phase::Revoking).await;
    let notice = lease(&told).notice.as_ref().unwrap();
    let claims = until_phase(&mut urgent, Phase::Waiting).await;
    let queue = claims.queue.as_ref().unwrap();
    assert_eq!((queue.reason.as_str(), queue.estimate_basis.as_str()), ("Claimed", "Notice"), "{queue:?}");
    assert!(queue.estimate_ms.is_some_and(|left| left <= 1_000), "its victim has a second: {queue:?}");
    assert_eq!((notice.preemptor.as_str(), notice.preemptor_class.as_str()), (lease(&claims).lease.as_str(), "urgent"));
    assert!(notice.remaining_ms > 0 && notice.remaining_ms <= 1_000, "{notice:?}");
    bed.uses(0);
    bed.client().await.release(LeaseRequest { lease: lease(&held).lease.clone() }).await.unwrap();
    until_phase(&mut urgent, Phase::Active).await;
}

#[tokio::test]
async fn what_a_process_still_uses_after_giving_its_lease_back_is_leased_to_nobody() {
    let bed = Bed::new().await;
    let mut first = acquire(&bed, vram(20)).await;
    let held = until_phase(&mut first, Phase::Active).await;
    bed.uses(18);
    bed.client().await.release(LeaseRequest { lease: lease(&held).lease.clone() }).await.unwrap();
    until_phase(&mut first, Phase::Ended).await;
    let mut second = acquire(&bed, vram(10)).await;
    until_phase(&mut second, Phase::Waiting).await;
    bed.uses(0);
    until_phase(&mut second, Phase::Active).await;
}

#[tokio::test]
async fn a_broken_connection_can_be_taken_up_again_in_time_by_whoever_has_the_secret() {
    let bed = Bed::new().await;
    let mut stream = acquire(&bed, AcquireRequest { request_id: "mine".into(), ..vram(16) }).await;
    let granted = until_phase(&mut stream, Phase::Active).await;
    let id = lease(&granted).lease.clone();
    drop(stream);
    let wrong = ResumeRequest { lease: id.clone(), secret: "guess".into() };
    assert_eq!(bed.client().await.resume(wrong).await.unwrap_err().code(), Code::PermissionDenied);
    let right = ResumeRequest { lease: id.clone(), secret: granted.secret.clone() };
    let mut again = bed.client().await.resume(right).await.unwrap().into_inner();
    let held = until_phase(&mut again, Phase::Active).await;
    assert_eq!(lease(&held).token, lease(&granted).token, "the same grant");
    let unknown = ResumeRequest { lease: "user-1/x".into(), secret: granted.secret };
    assert_eq!(bed.client().await.resume(unknown).await.unwrap_err().code(), Code::NotFound);
    // And one that nobody takes up ends, for whoever waits.
    let mut waits = acquire(&bed, vram(16)).await;
    until_phase(&mut waits, Phase::Waiting).await;
    drop(again);
    until_phase(&mut waits, Phase::Active).await;
}

#[tokio::test]
async fn an_agent_that_was_killed_ends_no_lease() {
    let bed = Bed::new().await;
    let mut stream = acquire(&bed, vram(16)).await;
    let granted = until_phase(&mut stream, Phase::Active).await;
    let bed = bed.crash().await;
    let request = ResumeRequest { lease: lease(&granted).lease.clone(), secret: granted.secret.clone() };
    let mut again = bed.client().await.resume(request).await.unwrap().into_inner();
    let held = until_phase(&mut again, Phase::Active).await;
    assert_eq!((&lease(&held).token, &lease(&held).gpus), (&lease(&granted).token, &lease(&granted).gpus));
}

#[tokio::test]
async fn the_same_request_twice_is_one_lease_and_another_under_its_name_is_refused() {
    let bed = Bed::new().await;
    let named = |gib| AcquireRequest { request_id: "job-1".into(), ..vram(gib) };
    let mut first = acquire(&bed, named(8)).await;
    let granted = until_phase(&mut first, Phase::Active).await;
    let mut second = acquire(&bed, named(8)).await;
    let again = until_phase(&mut second, Phase::Active).await;
    assert_eq!((&lease(&again).lease, &lease(&again).token), (&lease(&granted).lease, &lease(&granted).token));
    let refused = bed.client().await.acquire(named(9)).await.unwrap_err();
    assert!(refused.message().contains("another demand"), "{refused:?}");
}

#[tokio::test]
async fn patience_and_time_to_live_come_to_an_end() {
    let bed = Bed::new().await;
    let mut held = acquire(&bed, AcquireRequest { ttl_ms: 400, ..vram(16) }).await;
    let granted = until_phase(&mut held, Phase::Active).await;
    let id = lease(&granted).lease.clone();
    let refused = bed.client().await.acquire(AcquireRequest { no_wait: true, ..vram(16) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let mut impatient = acquire(&bed, AcquireRequest { timeout_ms: 100, ..vram(16) }).await;
    assert_eq!(lease(&until_phase(&mut impatient, Phase::Ended).await).reason, "Expired");
    // It lives without its stream, by being renewed.
    drop(held);
    let mut waits = acquire(&bed, vram(16)).await;
    let renewed = bed.client().await.renew(LeaseRequest { lease: id }).await.unwrap().into_inner();
    assert_eq!(lease(&renewed).phase(), Phase::Active);
    until_phase(&mut waits, Phase::Active).await;
}

#[tokio::test]
async fn whoever_asks_an_agent_that_has_just_begun_is_answered_once_it_has_seen_its_gpus() {
    let (bed, silent) = Bed::in_silence().await;
    let mut client = bed.client().await;
    let mut asked = std::pin::pin!(client.dry_run(vram(16)));
    while !bed.has_unheard() {
        tokio::select! {
            biased;
            answer = &mut asked => panic!("it knows no GPU yet: {answer:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(silent);
    assert_eq!(asked.await.unwrap().into_inner().outlook(), Outlook::Now);
}

#[tokio::test]
async fn whoever_asks_for_a_gpu_while_the_driver_has_told_of_none_yet_waits_for_it() {
    let (bed, silent) = Bed::in_silence().await;
    let mut asked = acquire(&bed, vram(16)).await;
    let waits = until_phase(&mut asked, Phase::Waiting).await;
    let queue = waits.queue.as_ref().unwrap();
    assert_eq!(queue.reason, "Closed", "{queue:?}");
    assert!(queue.message.contains("the driver has not told yet"), "{queue:?}");
    let mut ram = acquire(&bed, AcquireRequest { ram_mib: 1024, ..AcquireRequest::default() }).await;
    until_phase(&mut ram, Phase::Active).await;
    drop(silent);
    until_phase(&mut asked, Phase::Active).await;
}

#[tokio::test]
async fn a_dry_run_tells_what_would_come_of_a_request_and_changes_nothing() {
    let bed = Bed::new().await;
    let asked = |class: &str, gib| AcquireRequest { class: class.into(), ..vram(gib) };
    let mut held = acquire(&bed, asked("batch", 16)).await;
    let granted = until_phase(&mut held, Phase::Active).await;
    for (class, gib, outlook) in [
        ("normal", 4, Outlook::Now),
        ("urgent", 16, Outlook::AfterPreemption),
        ("batch", 16, Outlook::Waits),
        ("urgent", 500, Outlook::Never),
    ] {
        let told = bed.client().await.dry_run(asked(class, gib)).await.unwrap().into_inner();
        assert_eq!(told.outlook(), outlook, "{class} {gib}: {told:?}");
        if outlook == Outlook::AfterPreemption {
            assert_eq!(told.victims, [lease(&granted).lease.clone()]);
        }
    }
}
