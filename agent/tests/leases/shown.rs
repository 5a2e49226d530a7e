//! What anybody on the machine sees, and what a pod does.

use memboss_agent_api::v1::{AcquireRequest, ExplainRequest, LeaseRequest, Phase, StatusRequest};
use tonic::Code;

use crate::bed::{Bed, acquire, lease, until_phase, vram};
use crate::part::{Part, Role};

const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";

#[tokio::test]
async fn everybody_sees_who_holds_what_who_waits_and_why_but_no_secret() {
    let bed = Bed::new().await;
    let mut watched = bed.client().await.watch_status(StatusRequest {}).await.unwrap().into_inner();
    assert!(watched.message().await.unwrap().unwrap().leases.is_empty());
    let mut held = acquire(&bed, AcquireRequest { label: "train\u{1b}[31m".into(), ..vram(20) }).await;
    let granted = until_phase(&mut held, Phase::Active).await;
    bed.uses(18);
    let mut waits = acquire(&bed, vram(20)).await;
    let waiting = lease(&until_phase(&mut waits, Phase::Waiting).await).lease.clone();
    let status = bed.until(|status| status.gpus.as_ref().unwrap().gpus[0].used_mib == 18 * 1024).await;
    assert!(!format!("{status:?}").contains(&granted.secret));
    let of = |id: &str| status.leases.iter().find(|seen| seen.lease == id).unwrap();
    let holder = of(&lease(&granted).lease).holder.clone().unwrap();
    assert_eq!((holder.pid, holder.uid), (std::process::id(), rustix::process::geteuid().as_raw()));
    assert_eq!(
        (holder.label.as_str(), holder.used_mib),
        ("train[31m", Some(18 * 1024)),
        "nothing that a terminal would obey"
    );
    assert!(holder.name.starts_with("leases"), "{holder:?}");
    let queue = of(&waiting).queue.clone().unwrap();
    assert_eq!((queue.position, queue.reason.as_str()), (1, "NoRoom"));
    assert!(of(&lease(&granted).lease).queue.is_none());
    let lines = bed.client().await.explain(ExplainRequest { lease: waiting }).await.unwrap().into_inner().lines;
    assert!(lines.iter().any(|line| line.contains("place 1 of 1")), "{lines:?}");
    let unknown = bed.client().await.explain(ExplainRequest { lease: "user-0/none".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let told = watched.message().await.unwrap().unwrap();
    assert!(!told.leases.is_empty(), "told again when something has changed");
}

#[tokio::test]
async fn a_pod_sees_its_own_leases_and_the_machines_figures_and_no_other_tenants_name() {
    let bed = Bed::patient().await;
    let mut stranger = Part::begin(&bed.socket(), &Role { class: "normal", gib: 8, ..Role::default() });
    let (other, _) = stranger.until_active().await;
    let bed = bed.again_in_pod(POD, &[stranger.pid()]).await;
    let mut mine = acquire(&bed, vram(12)).await;
    let own = lease(&until_phase(&mut mine, Phase::Active).await).lease.clone();
    assert_eq!(own.split_once('/').unwrap().0, format!("pod-{POD}"));
    let status = bed.status().await;
    assert_eq!(status.leases.iter().map(|seen| seen.lease.as_str()).collect::<Vec<_>>(), [own.as_str()]);
    assert_eq!(status.gpus.unwrap().gpus[0].leased_mib, 20 * 1024, "of all");
    let told = bed.root().await.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(told.leases.iter().any(|seen| seen.lease == other), "root sees both");
    for id in [other, "user-0/none".to_owned()] {
        let refused = bed.client().await.release(LeaseRequest { lease: id.clone() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let refused = bed.client().await.explain(ExplainRequest { lease: id }).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
    let above = bed.client().await.acquire(AcquireRequest { class: "urgent".into(), ..vram(1) }).await.unwrap_err();
    assert_eq!(above.code(), Code::PermissionDenied, "root of a pod is not root of the machine: {above:?}");
}
