//! What a start takes over: from the state file, from the kernel, from an ADD that a crash cut off.

use flock_core::ipam::Phase;
use flock_core::ports::StateStore;

use crate::world::*;

#[tokio::test]
async fn a_restart_keeps_every_pod_and_every_address() {
    let world = World::new();
    let node = world.start().await;
    let mut held = Vec::new();
    for container in ["c1", "c2", "c3"] {
        held.push(add(&node, container, &request(Some("ns/p"))).await.unwrap().addresses);
    }
    drop(node);
    let node = world.start().await;
    for (container, addresses) in ["c1", "c2", "c3"].into_iter().zip(&held) {
        assert_eq!(add(&node, container, &request(Some("ns/p"))).await.unwrap().addresses, *addresses);
    }
    let fresh = add(&node, "c4", &request(None)).await.unwrap().addresses;
    assert!(held.iter().all(|held| held.v4 != fresh.v4 && held.v6 != fresh.v6));
}

#[tokio::test]
async fn a_restart_without_a_state_file_knows_the_pods_from_the_kernel() {
    let world = World::new();
    let node = world.start().await;
    let held = add(&node, "c1", &request(Some("ns/p"))).await.unwrap().addresses;
    let world = world.without_state();
    let (node, notices) = world.start_in("boot-1").await;
    assert_eq!(notices, vec!["c1/eth0 is taken over from the kernel"]);
    let report = node.report(NOW).await;
    assert_eq!(report.allocations[0].addresses, held.iter().collect::<Vec<_>>());
    assert_eq!(report.allocations[0].pod.as_ref().unwrap().to_string(), "ns/p");
    assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
}

#[tokio::test]
async fn an_add_that_a_crash_cut_off_is_kept_with_its_link_and_released_without() {
    for linked in [true, false] {
        let world = World::new();
        let node = world.start().await;
        add(&node, "c1", &request(None)).await.unwrap();
        // The crash came before the commit reached the disk.
        let mut snapshot = world.store.load().await.unwrap().unwrap();
        snapshot.allocations[0].phase = Phase::Pending;
        snapshot.generation += 1;
        world.store.save(snapshot).await.unwrap();
        if !linked {
            world.kernel.remove_link(&id("c1"));
        }
        let node = world.start().await;
        let held = node.report(NOW).await.allocations;
        assert_eq!(held.len(), usize::from(linked), "linked: {linked}");
        assert!(held.iter().all(|held| held.phase == Phase::Committed));
    }
}

#[tokio::test]
async fn a_reboot_drops_the_allocations_of_the_boot_before() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_link(&id("c1"));
    let (node, notices) = world.start_in("boot-2").await;
    assert_eq!(notices, vec!["the node was rebooted: 1 allocations dropped"]);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_corrupt_state_file_does_not_stop_the_node() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.store.corrupt();
    let (node, notices) = world.start_in("boot-1").await;
    assert!(notices[0].contains("allocations are rebuilt from the kernel"), "{notices:?}");
    assert_eq!(node.report(NOW).await.allocations.len(), 1);
}

#[tokio::test]
async fn the_kernel_wins_where_the_state_file_gives_an_address_to_somebody_else() {
    let world = World::new();
    let node = world.start().await;
    let held = add(&node, "linked", &request(None)).await.unwrap().addresses;
    let mut snapshot = world.store.load().await.unwrap().unwrap();
    snapshot.allocations[0].attachment = id("unlinked");
    snapshot.generation += 1;
    world.store.save(snapshot).await.unwrap();
    let node = world.start().await;
    let report = node.report(NOW).await.allocations;
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].attachment, id("linked"));
    assert_eq!(report[0].addresses, held.iter().collect::<Vec<_>>());
}
