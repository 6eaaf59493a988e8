//! Crashes, collisions, crowds: what is left, and what is not.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::task::Poll;

use flock_core::ids::{AttachmentId, IfName};
use flock_core::ports::{HostLink, LinksTended, Netlink, NetlinkError, NetnsPath, PodLink, Retry};
use flock_core::route::RouteSet;
use flock_core::testing::contract::netlink::NetlinkWorld;
use flock_core::testing::require;
use flock_netlink::{DYING_GROUP, KernelNetlink};
use futures::future::join_all;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{LinkBridge, LinkVeth};

use crate::world::{World, edit, eventually, index_of, on_node, set_link};

fn ids(links: &[PodLink]) -> BTreeSet<AttachmentId> {
    links.iter().map(|link| link.identity.attachment.clone()).collect()
}

#[test]
fn fifty_at_once_come_and_go() {
    on_node(async |world| {
        let pods: Vec<PodLink> = (1..=50)
            .map(|n| {
                world.pod(
                    &format!("pod-{n}"),
                    Some(&format!("2001:db8::{n:x}")),
                    Some(&format!("192.0.2.{n}")),
                )
            })
            .collect();
        let states = join_all(pods.iter().map(|link| world.kernel.attach(link))).await;
        for (link, state) in pods.iter().zip(states) {
            let netns = Some(link.netns.clone());
            let found = world.kernel.inspect(&link.identity.attachment, netns).await.unwrap();
            assert_eq!(found, Some(state.unwrap()));
        }
        let listed = world.kernel.attachments().await.unwrap();
        let listed: BTreeSet<_> = listed.into_iter().map(|link| link.identity.unwrap().attachment).collect();
        assert_eq!(listed, ids(&pods));
        assert_eq!(world.routes().await.iter().filter(|(_, protocol, _)| *protocol == 117).count(), 100);

        join_all(pods.iter().map(|link| world.detach(link))).await;
        assert_eq!(world.routes().await.len(), 0);
        assert_eq!(world.kernel.attachments().await.unwrap(), []);
        for link in &pods {
            World::until_gone(&link.identity.attachment.host_ifname());
        }
    });
}

#[test]
fn attaches_and_detaches_of_different_pods_may_cross() {
    on_node(async |world| {
        let pods: Vec<PodLink> = (1..=20)
            .map(|n| world.pod(&format!("pod-{n}"), Some(&format!("2001:db8::{n:x}")), None))
            .collect();
        let (stay, go) = pods.split_at(10);
        join_all(go.iter().map(|link| async { world.kernel.attach(link).await.unwrap() })).await;
        let coming = stay.iter().map(|link| async { drop(world.kernel.attach(link).await.unwrap()) });
        let going = go.iter().map(|link| world.detach(link));
        let watching = async {
            for _ in 0..50 {
                let listed = world.kernel.attachments().await.unwrap();
                assert!(listed.len() <= pods.len(), "a list read while it changes is read again");
            }
        };
        futures::join!(join_all(coming), join_all(going), watching);
        for link in go {
            World::until_gone(&link.identity.attachment.host_ifname());
        }
        let listed = world.kernel.attachments().await.unwrap();
        let listed: BTreeSet<_> = listed.into_iter().map(|link| link.identity.unwrap().attachment).collect();
        assert_eq!(listed, ids(stay));
    });
}

#[test]
fn a_link_that_waits_to_be_deleted_is_deleted_after_a_restart() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), None);
        let ifname = world.kernel.attach(&link).await.unwrap().host.ifname;
        set_link(&ifname, LinkAttribute::Group(DYING_GROUP));
        assert_eq!(world.kernel.inspect(&link.identity.attachment, None).await.unwrap(), None);
        let _restarted = KernelNetlink::new().unwrap();
        World::until_gone(&ifname);
    });
}

#[test]
fn a_link_that_waits_to_be_deleted_is_deleted_when_it_is_seen() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), None);
        let ifname = world.kernel.attach(&link).await.unwrap().host.ifname;
        set_link(&ifname, LinkAttribute::Group(DYING_GROUP));
        assert_eq!(world.kernel.attachments().await.unwrap(), []);
        World::until_gone(&ifname);
    });
}

#[test]
fn a_link_that_waits_to_be_deleted_makes_way_for_the_same_attachment() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), None);
        let first = world.kernel.attach(&link).await.unwrap();
        set_link(&first.host.ifname, LinkAttribute::Group(DYING_GROUP));
        let second = world.kernel.attach(&link).await.unwrap();
        let netns = Some(link.netns.clone());
        assert_eq!(world.kernel.inspect(&link.identity.attachment, netns).await.unwrap(), Some(second));
    });
}

#[test]
fn a_strange_link_under_our_name_makes_way() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), None);
        let ifname = link.identity.attachment.host_ifname();
        edit(None, async |handle| {
            handle.link().add(LinkVeth::new(ifname.as_str(), "strange").build()).execute().await.unwrap();
        });
        let state = world.kernel.attach(&link).await.unwrap();
        assert_eq!(state.identity, Some(link.identity));
        assert_eq!(index_of("strange"), None);
    });
}

#[test]
fn links_of_others_are_not_listed_and_not_deleted() {
    on_node(async |world| {
        edit(None, async |handle| {
            handle.link().add(LinkVeth::new("veth0", "flock-bridge").build()).execute().await.unwrap();
        });
        set_link(
            &IfName::parse("veth0").unwrap(),
            LinkAttribute::IfAlias("flock1 a eth0 . . . .".to_owned()),
        );
        assert_eq!(world.kernel.attachments().await.unwrap(), []);
        let link = world.pod("a", Some("2001:db8::1"), None);
        world.kernel.attach(&link).await.unwrap();
        world.detach(&link).await;
        World::until_gone(&link.identity.attachment.host_ifname());
        assert!(index_of("veth0").is_some() && index_of("flock-bridge").is_some());
    });
}

#[test]
fn only_veths_under_names_of_flock_are_looked_after_and_discarded() {
    on_node(async |world| {
        edit(None, async |handle| {
            handle.link().add(LinkBridge::new("flock00000001").build()).execute().await.unwrap();
            handle.link().add(LinkVeth::new("flock00000002", "veth0").build()).execute().await.unwrap();
        });
        let ifname = |name: &str| IfName::parse(name).unwrap();
        set_link(&ifname("flock00000002"), LinkAttribute::IfAlias("uplink to rack 4".to_owned()));
        let seen = |name: &str| HostLink {
            ifname: ifname(name),
            ifindex: index_of(name).unwrap(),
            attachment: None,
        };
        let nameless = seen("flock00000002");
        let tended = world.kernel.tend_links().await.unwrap();
        assert_eq!(tended, LinksTended { links: vec![nameless.clone()], notices: vec![] });
        for link in [seen("flock00000001"), seen("veth0"), seen("lo")] {
            world.kernel.discard(&link).await.unwrap();
        }
        assert_eq!(world.kernel.tend_links().await.unwrap(), tended);
        world.kernel.discard(&nameless).await.unwrap();
        World::until_gone(&nameless.ifname);
        assert!(index_of("flock00000001").is_some());
    });
}

/// Mounts a file system that answers nobody, until the file is closed.
fn dead_filesystem(path: &NetnsPath) -> File {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    std::fs::create_dir(path.as_path()).unwrap();
    mount(Some("dead"), path.as_path(), Some("fuse"), MsFlags::empty(), Some(data.as_str())).unwrap();
    device
}

#[test]
fn only_what_is_certain_to_be_no_namespace_is_gone() {
    if !require("FUSE", Path::new("/dev/fuse").exists()) {
        return;
    }
    on_node(async |world| {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| NetnsPath::parse(directory.path().join(name).to_str().unwrap()).unwrap();
        std::fs::write(path("file").as_path(), "").unwrap();
        nix::unistd::mkfifo(path("pipe").as_path(), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("turn", path("turn").as_path()).unwrap();
        let alive = world.new_netns();
        std::os::unix::fs::symlink(alive.as_path(), path("link").as_path()).unwrap();
        let own = NetnsPath::parse("/proc/thread-self/ns/net").unwrap();
        let gone = BTreeSet::from([
            path("missing"),
            path("file"),
            path("pipe"),
            path("file/inside"),
            // As of a process whose number another one has now.
            own,
        ]);
        let asked: BTreeSet<NetnsPath> =
            gone.iter().cloned().chain([alive, path("link"), path("turn")]).collect();
        assert_eq!(world.kernel.gone(asked.clone()).await.unwrap(), gone);

        let dead = dead_filesystem(&path("dead"));
        let with_dead: BTreeSet<NetnsPath> = gone.iter().cloned().chain([path("dead/netns")]).collect();
        for asked in [&with_dead, &asked] {
            let error = world.kernel.gone(asked.clone()).await.unwrap_err();
            assert_eq!(error.retry(), Retry::Later, "{error}");
        }
        umount2(path("dead").as_path(), MntFlags::MNT_DETACH).unwrap();
        drop(dead);
        let answers = || futures::executor::block_on(world.kernel.gone(asked.clone()));
        eventually("there are answers again", || answers().is_ok_and(|answer| answer == gone));
    });
}

#[test]
fn whoever_was_answered_about_namespaces_may_ask_again_at_once() {
    on_node(async |world| {
        let missing = BTreeSet::from([NetnsPath::parse("/run/netns/flock-never-was").unwrap()]);
        for _ in 0..2000 {
            assert_eq!(world.kernel.gone(missing.clone()).await.unwrap(), missing);
        }
    });
}

#[test]
fn an_alias_about_another_link_says_nothing() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), None);
        let ifname = world.kernel.attach(&link).await.unwrap().host.ifname;
        set_link(&ifname, LinkAttribute::IfAlias("flock1 b eth0 . . . .".to_owned()));
        assert_eq!(world.kernel.attachments().await.unwrap()[0].identity, None);
        assert_eq!(world.kernel.attach(&link).await.unwrap().identity, Some(link.identity));
    });
}

#[test]
fn an_attach_nobody_waits_for_leaves_nothing() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"));
        let ifname = link.identity.attachment.host_ifname();
        {
            let mut attach = Box::pin(world.kernel.attach(&link));
            assert!(matches!(futures::poll!(attach.as_mut()), Poll::Pending));
            eventually("the link is being made", || index_of(ifname.as_str()).is_some());
        }
        World::until_gone(&ifname);
        assert_eq!(world.routes().await.len(), 0);
    });
}

#[test]
fn what_is_no_network_namespace_of_a_pod_is_refused() {
    on_node(async |world| {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("file"), "").unwrap();
        nix::unistd::mkfifo(path("pipe").as_str(), Mode::S_IRWXU).unwrap();
        let refused = [
            (path("missing"), "No such file"),
            (path("file"), "Invalid argument"),
            (path("pipe"), "Invalid argument"),
            ("/proc/thread-self/ns/mnt".to_owned(), "Invalid argument"),
            ("/proc/thread-self/ns/net".to_owned(), "it is the node's own"),
        ];
        let other = world.pod("other", Some("2001:db8::2"), None);
        let attached = world.kernel.attach(&other).await.unwrap();
        for (path, reason) in refused {
            let link = PodLink {
                netns: NetnsPath::parse(&path).unwrap(),
                ..world.pod("a", Some("2001:db8::1"), None)
            };
            let error = world.kernel.attach(&link).await.unwrap_err();
            assert!(matches!(error, NetlinkError::Netns { .. }), "{path}: {error}");
            assert!(error.to_string().contains(reason), "{path}: {error}");
            let netns = Some(link.netns);
            let nothing = world.kernel.inspect(&link.identity.attachment, netns.clone()).await.unwrap();
            assert_eq!(nothing, None);
            let seen = world.kernel.inspect(&other.identity.attachment, netns).await.unwrap().unwrap();
            assert_eq!((seen.host, seen.pod), (attached.host.clone(), None), "{path}");
        }
    });
}

#[test]
fn a_pod_that_cannot_be_finished_leaves_nothing_and_says_why() {
    on_node(async |world| {
        let link = world.pod("a", Some("ff05::1"), Some("192.0.2.1"));
        let error = world.kernel.attach(&link).await.unwrap_err();
        let reason = "Cannot assign multicast address without \"IFA_F_MCAUTOJOIN\" flag";
        let text = error.to_string();
        assert!(text.starts_with("kernel refused to add an address to the pod: "), "{text}");
        assert!(text.contains(reason), "the kernel explains itself: {text}");
        assert_eq!(index_of(link.identity.attachment.host_ifname().as_str()), None, "gone at once");
        assert_eq!(world.routes().await.len(), 0);
    });
}

#[test]
fn routes_to_a_link_that_is_down_are_left_out() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"));
        let state = world.kernel.attach(&link).await.unwrap();
        let wanted: RouteSet = state
            .host
            .routes
            .iter()
            .map(|route| flock_core::route::Route {
                destination: route.destination,
                protocol: route.protocol,
                next_hop: route.next_hop.clone().unwrap(),
            })
            .collect();
        world.detach(&link).await;
        assert!(world.kernel.sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
    });
}
