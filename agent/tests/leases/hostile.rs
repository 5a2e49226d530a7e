//! Clients that mean ill or fare ill, and a ledger that cannot be written: nobody else suffers, and nothing is promised that is not written down.

use std::io::IoSliceMut;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use memboss_agent::serve::Quota;
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{AcquireRequest, LeaseRequest, Phase, StatusRequest};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::bed::{Bed, acquire, lease, settings, until_phase, vram};
use crate::part::{Part, Role};

#[tokio::test]
async fn garbage_and_half_open_connections_disturb_nobody() {
    let bed = Bed::new().await;
    let mut open = Vec::new();
    for words in [
        &b""[..],
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 4096],
    ] {
        let mut stream = UnixStream::connect(bed.socket()).await.unwrap();
        stream.write_all(words).await.unwrap();
        open.push(stream);
    }
    let mut closed = open.pop().unwrap();
    let mut told = Vec::new();
    // What is no HTTP/2 is answered with a farewell at most, and closed.
    drop(closed.read_to_end(&mut told).await);
    let mut held = acquire(&bed, vram(4)).await;
    until_phase(&mut held, Phase::Active).await;
}

#[tokio::test]
async fn a_request_that_was_left_before_its_answer_holds_nothing_for_long() {
    let bed = Bed::new().await;
    for _ in 0..3 {
        let mut client = bed.client().await;
        let asked = tokio::spawn(async move { client.acquire(vram(20)).await.map(drop) });
        tokio::task::yield_now().await;
        asked.abort();
        let _ = asked.await;
    }
    let mut held = acquire(&bed, vram(20)).await;
    until_phase(&mut held, Phase::Active).await;
}

#[tokio::test]
async fn one_that_never_reads_what_it_is_told_costs_nothing_and_hears_the_latest() {
    let bed = Bed::new().await;
    let mut deaf = acquire(&bed, AcquireRequest { class: "batch".into(), ttl_ms: 600_000, ..vram(20) }).await;
    let id = lease(&until_phase(&mut deaf, Phase::Active).await).lease.clone();
    let mut client = bed.client().await;
    for _ in 0..600 {
        // It asks the deaf one to go; when it leaves, that one is spared. More words than a connection holds.
        let urgent = AcquireRequest { class: "high".into(), ..vram(4) };
        let mut urgent = client.acquire(urgent).await.unwrap().into_inner();
        let waiting = lease(&until_phase(&mut urgent, Phase::Waiting).await).lease.clone();
        client.release(LeaseRequest { lease: waiting }).await.unwrap();
    }
    let mut told = deaf;
    bed.client().await.release(LeaseRequest { lease: id }).await.unwrap();
    until_phase(&mut told, Phase::Ended).await;
}

#[tokio::test]
async fn another_user_can_neither_end_nor_shrink_what_is_not_its_own_and_root_can() {
    if !rustix::process::geteuid().is_root() {
        // Only root can play another user.
        return;
    }
    let bed = Bed::new().await;
    let role = Role { class: "normal", gib: 8, user: Some(65_534), ..Role::default() };
    let mut theirs = Part::begin(&bed.socket(), &role);
    let (id, _) = theirs.until_active().await;
    assert!(id.starts_with("user-65534/"), "{id}");
    let above = Role { class: "urgent", ..role };
    let refused = Part::begin(&bed.socket(), &above).until("REFUSED").await;
    assert_eq!(refused[1], "PermissionDenied", "{refused:?}");
    bed.client().await.release(LeaseRequest { lease: id }).await.unwrap();
    theirs.until("ENDED").await;
}

#[tokio::test]
async fn while_the_ledger_cannot_be_written_nothing_is_granted_and_all_is_when_it_can_again() {
    let bed = Bed::patient().await;
    let mut held = acquire(&bed, vram(4)).await;
    until_phase(&mut held, Phase::Active).await;
    let in_the_way = bed.ledger_in_the_way();
    let mut client = bed.client().await;
    let mut asked = tokio::spawn(async move { client.acquire(vram(4)).await });
    let answered = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
    assert!(answered.is_err(), "no answer rests on what is not written: {answered:?}");
    assert_eq!(bed.status().await.leases.len(), 1, "what was published last still stands");
    std::fs::remove_dir(&in_the_way).unwrap();
    let mut granted = asked.await.unwrap().unwrap().into_inner();
    until_phase(&mut granted, Phase::Active).await;
}

#[tokio::test]
async fn a_full_tmpfs_holds_grants_back_until_there_is_space_and_loses_none() {
    if !rustix::process::geteuid().is_root() {
        // Only root can mount one; what is done about a ledger that cannot be written is shown above too.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The agent of this test runs in this thread, and only this thread sees the mount.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    let bed = Bed::within(dir, settings(), Quota::default()).await;
    let mut held = acquire(&bed, vram(4)).await;
    until_phase(&mut held, Phase::Active).await;
    let ballast = bed.dir.path().join("ballast");
    let mut filled = std::fs::File::create(&ballast).unwrap();
    let full = std::io::Write::write_all(&mut filled, &[0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // The last page of the ledger's file has room for some.
    let mut before = Vec::new();
    let asked = loop {
        let mut client = bed.client().await;
        let mut asked = tokio::spawn(async move { client.acquire(vram(1)).await });
        match tokio::time::timeout(Duration::from_millis(300), &mut asked).await {
            Ok(answered) => before.push(answered.unwrap().unwrap().into_inner()),
            Err(_) => break asked,
        }
        assert!(before.len() < 100, "so many answers rest on nothing that is written");
    };
    drop(filled);
    std::fs::remove_file(ballast).unwrap();
    let mut granted = asked.await.unwrap().unwrap().into_inner();
    let first = lease(&until_phase(&mut granted, Phase::Active).await).lease.clone();
    // And it was written: the next agent knows it.
    let bed = bed.crash().await;
    assert!(bed.status().await.leases.iter().any(|seen| seen.lease == first));
    umount2(bed.dir.path(), MntFlags::MNT_DETACH).unwrap();
}

#[tokio::test]
async fn a_process_that_is_gone_cannot_be_spoken_for_by_whoever_has_its_connection() {
    let bed = Bed::new().await;
    let left = bed.dir.path().join("left.sock");
    let listener = std::os::unix::net::UnixListener::bind(&left).unwrap();
    let mut part = Part::begin(&bed.socket(), &Role { leaves: Some(left), ..Role::default() });
    assert!(part.process.wait().await.unwrap().success());
    let (from, _) = listener.accept().unwrap();
    let mut client = LeasesClient::new(over(received(&from)).await);
    let refused = client.status(StatusRequest {}).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("has ended"), "{refused:?}");
}

/// The descriptor that was sent.
fn received(from: &std::os::unix::net::UnixStream) -> std::os::unix::net::UnixStream {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; 1];
    recvmsg(from, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::empty()).unwrap();
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    sent.unwrap().into()
}

/// Speaks over a connection that is there already.
async fn over(stream: std::os::unix::net::UnixStream) -> Channel {
    stream.set_nonblocking(true).unwrap();
    let mut stream = Some(UnixStream::from_std(stream).unwrap());
    let connector = tower::service_fn(move |_: Uri| {
        let taken = stream.take().map(TokioIo::new);
        std::future::ready(taken.ok_or_else(|| std::io::Error::other("it was the only one")))
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}
