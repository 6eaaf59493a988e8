//! The way into a pod's network namespace.
//!
//! A runtime names it by a path on the node, and the agent may live in a container that sees neither the mount
//! (made by a runtime elsewhere than below /run/netns) nor the process (`/proc/1234/ns/net`) behind it. So the plugin,
//! which the runtime executes, sends the open namespace along.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use flock_core::ports::NetnsPath;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Waits for the first bytes of a request, and takes the file that came with them.
pub(crate) async fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(bytes)];
            let received = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let files = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            });
            Ok((received.bytes, files.flatten().last()))
        })
        .await
}

/// Where this process enters the namespace for as long as `file` is open; `None` where the path of the runtime does,
/// which says more to people.
pub(crate) fn path(netns: &NetnsPath, file: Option<&OwnedFd>) -> Option<NetnsPath> {
    let entrance = format!("/proc/self/fd/{}", file?.as_raw_fd());
    let identity = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    if identity(netns.as_path()) == identity(entrance.as_ref()) {
        return None;
    }
    NetnsPath::parse(&entrance).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::thread;

    use flock_cni::rpc::{self, Limits};
    use flock_cni::wire::{Attachment, Call, Check, Request};
    use tokio::net::UnixListener;

    use super::*;

    fn check(netns: &Path) -> Request {
        let attachment = Attachment { container_id: "c".to_owned(), ifname: "eth0".to_owned() };
        Request::new(Call::Check(Check {
            attachment,
            netns: netns.display().to_string(),
            expected: Vec::new(),
        }))
    }

    #[tokio::test]
    async fn file_comes_with_the_request_where_the_client_can_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let netns = dir.path().join("netns");
        fs::write(&netns, "").unwrap();
        for (asked, there) in [(netns.as_path(), true), (Path::new("/nonexistent"), false)] {
            let socket = dir.path().join(if there { "with" } else { "without" });
            let listener = UnixListener::bind(&socket).unwrap();
            let request = check(asked);
            let client = thread::spawn(move || rpc::call(&socket, &request, Limits::DEFAULT));
            let (stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            let (length, file) = receive(&stream, &mut bytes).await.unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&bytes[..length]).unwrap(), check(asked));
            let identity = |file: &fs::Metadata| (file.dev(), file.ino());
            let found = file.map(|file| identity(&File::from(file).metadata().unwrap()));
            assert_eq!(found, there.then(|| identity(&fs::metadata(&netns).unwrap())));
            drop(stream);
            assert!(client.join().unwrap().is_err());
        }
    }

    #[test]
    fn path_of_the_runtime_is_used_where_it_leads_to_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let [netns, other] = ["netns", "other"].map(|name| dir.path().join(name));
        fs::write(&netns, "").unwrap();
        fs::write(&other, "").unwrap();
        let open = OwnedFd::from(File::open(&netns).unwrap());
        let path = |named: &Path, open| path(&NetnsPath::parse(&named.display().to_string()).unwrap(), open);
        assert_eq!(path(&netns, Some(&open)), None);
        for elsewhere in [&other, Path::new("/nonexistent")] {
            let entrance = path(elsewhere, Some(&open)).unwrap();
            assert_eq!(fs::metadata(entrance.as_path()).unwrap().ino(), fs::metadata(&netns).unwrap().ino());
            assert_eq!(path(elsewhere, None), None);
        }
    }
}
