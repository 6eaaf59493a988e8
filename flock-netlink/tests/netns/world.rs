//! A node in namespaces of its own, and what tests do to it behind flock's back (through the netlink
//! library's own client, not the code under test).

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use flock_core::ids::{AttachmentId, IfName};
use flock_core::ipam::Addresses;
use flock_core::ports::{LinkIdentity, Netlink, NetnsPath, PodLink};
use flock_core::testing::require;
use flock_netlink::{KernelNetlink, Spread};
use futures::StreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;

/// How long a test waits for something that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node: its own network, and mounts for the names of its pods' namespaces.
pub(crate) struct World {
    pub(crate) kernel: KernelNetlink,
    directory: tempfile::TempDir,
    count: Mutex<u32>,
}

/// Runs a test on a node of its own, if this machine can.
pub(crate) fn on_node(test: impl AsyncFnOnce(&World) + Send + 'static) {
    on_node_like(|| KernelNetlink::new().unwrap(), test);
}

/// The same where flows are spread like this.
pub(crate) fn on_node_with(spread: Spread, test: impl AsyncFnOnce(&World) + Send + 'static) {
    on_node_like(move || KernelNetlink::with_spread(spread).unwrap(), test);
}

fn on_node_like(
    kernel: impl FnOnce() -> KernelNetlink + Send + 'static,
    test: impl AsyncFnOnce(&World) + Send + 'static,
) {
    let able = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_ok());
    if !require("root with network namespaces", able.join().unwrap()) {
        return;
    }
    let node = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let world = World { kernel: kernel(), directory: tempfile::tempdir().unwrap(), count: Mutex::new(0) };
        edit(None, async |handle| set_up(&handle, 1).await);
        runtime().block_on(test(&world));
        for entry in std::fs::read_dir(world.directory.path()).unwrap().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs something in a namespace (the node's own without one) on a thread of its own.
pub(crate) fn inside<T: Send>(netns: Option<&NetnsPath>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            if let Some(netns) = netns {
                setns(File::open(netns.as_path()).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            }
            work()
        });
        visitor.join().unwrap()
    })
}

/// Changes or reads a namespace with the netlink library's own client.
pub(crate) fn edit<T: Send>(netns: Option<&NetnsPath>, work: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    inside(netns, || {
        runtime().block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    })
}

pub(crate) async fn set_up(handle: &Handle, ifindex: u32) {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    handle.link().set(message).execute().await.unwrap();
}

/// Adds a route behind those of the same prefix and metric.
pub(crate) fn append(route: RouteMessage) {
    edit(None, async |mut handle| {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut answers = handle.request(message).unwrap();
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                assert_eq!(error.code, None, "{error}");
            }
        }
    });
}

/// Changes attributes of a link of the node.
pub(crate) fn set_link(ifname: &IfName, attribute: LinkAttribute) {
    let index = index_of(ifname.as_str()).unwrap();
    edit(None, async |handle| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![attribute];
        handle.link().set(message).execute().await.unwrap();
    });
}

/// Waits for something that must come true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Index of a link in the namespace of the calling thread.
pub(crate) fn index_of(ifname: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(ifname).ok()
}

impl World {
    /// A new pod namespace, mounted on a file as a container runtime does it.
    pub(crate) fn new_netns(&self) -> NetnsPath {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        let path = self.directory.path().join(count.to_string());
        File::create(&path).unwrap();
        inside(None, || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (own, none) = (Path::new("/proc/thread-self/ns/net"), None::<&str>);
            mount(Some(own), &path, none, MsFlags::MS_BIND, none).unwrap();
        });
        NetnsPath::parse(path.to_str().unwrap()).unwrap()
    }

    pub(crate) fn delete_netns(netns: &NetnsPath) {
        umount2(netns.as_path(), MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_file(netns.as_path()).unwrap();
    }

    /// What a pod with these addresses and a namespace of its own asks for.
    pub(crate) fn pod(&self, container: &str, v6: Option<&str>, v4: Option<&str>) -> PodLink {
        let addresses = Addresses { v6: v6.map(|a| a.parse().unwrap()), v4: v4.map(|a| a.parse().unwrap()) };
        PodLink {
            identity: LinkIdentity {
                attachment: AttachmentId::parse(&format!("{container}/eth0")).unwrap(),
                pod: None,
                uid: None,
                addresses,
                more: false,
            },
            netns: self.new_netns(),
            mtu: 1500,
            extra: Vec::new(),
            anycast: Vec::new(),
            loopback_runs: false,
            announced: addresses.iter().collect(),
        }
    }

    pub(crate) async fn detach(&self, link: &PodLink) {
        self.kernel.detach(&link.identity.attachment).await.unwrap();
    }

    pub(crate) fn until_gone(ifname: &IfName) {
        eventually("the link is gone", || index_of(ifname.as_str()).is_none());
    }
}
