//! Unix sockets: their files, and whose processes may connect.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::BACKLOG;
use crate::{identity::PeerAddress, telemetry::Seldom};

/// A unix socket that lets in processes of some users only.
pub(super) struct Listener {
    socket: UnixListener,
    allowed: Uids,
    refusals: Seldom,
    file: SocketFile,
}

/// Whose processes may connect.
struct Uids {
    own: u32,
    others: Vec<u32>,
}

/// Removes the file of a unix socket when the listener goes.
struct SocketFile(PathBuf);

// === impl Listener ===

impl Listener {
    /// Binds a socket for our own user, root and `others`.
    pub(super) fn bind(path: &Path, others: &[u32]) -> io::Result<Self> {
        remove_stale(path)?;
        let allowed = Uids::new(others)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile(path.to_owned());
        // Nobody can connect before `listen`, so that it does not matter what the umask
        // made of the mode. Whoever may replace the file in its directory could have us
        // change another's mode, but could as well put a socket of its own there.
        std::fs::set_permissions(path, Permissions::from_mode(allowed.mode()))?;
        let socket = socket.listen(BACKLOG.try_into().unwrap_or(u32::MAX))?;
        Ok(Self { socket, allowed, refusals: Seldom::default(), file })
    }

    /// The next connection of a process that may connect. Others are closed.
    pub(super) async fn accept(&self) -> io::Result<(UnixStream, PeerAddress)> {
        loop {
            let (stream, _) = self.socket.accept().await?;
            // What the kernel noted of the process that connected.
            let uid = stream.peer_cred().map(|peer| peer.uid());
            match uid {
                Ok(uid) if self.allowed.contain(uid) => {
                    return Ok((stream, PeerAddress::Unix { uid }));
                }
                Ok(uid) => self.refuse(&uid.to_string()),
                Err(_) => self.refuse("unknown"),
            }
        }
    }

    fn refuse(&self, uid: &str) {
        if let Some(left_out) = self.refusals.permit() {
            tracing::warn!(
                uid,
                path = %self.file.0.display(),
                left_out,
                "connection refused: the process is not of our own user, root or peer_uids"
            );
        }
    }
}

// === impl Uids ===

impl Uids {
    fn new(others: &[u32]) -> io::Result<Self> {
        // A socket pair's other end is ourselves: no need to ask libc.
        let own = std::os::unix::net::UnixStream::pair()?.0;
        own.set_nonblocking(true)?;
        let own = UnixStream::from_std(own)?.peer_cred()?.uid();
        Ok(Self { own, others: others.to_vec() })
    }

    fn contain(&self, uid: u32) -> bool {
        uid == self.own || uid == 0 || self.others.contains(&uid)
    }

    /// Connecting takes the right to write. Who is not ours is told by uid, not by mode.
    fn mode(&self) -> u32 {
        if self.others.is_empty() { 0o600 } else { 0o666 }
    }
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
                Err(_) => std::fs::remove_file(path),
            }
        }
        // Binding fails on anything else that is there.
        _ => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("bound").permissions().mode() & 0o777
    }

    #[test]
    fn our_own_user_root_and_those_named_may_connect() {
        let closed = Uids { own: 1000, others: vec![] };
        let open = Uids { own: 1000, others: vec![1337, 65534] };
        for (uid, by_default, by_name) in [
            (1001, false, false),
            (1337, false, true),
            (65534, false, true),
            (u32::MAX, false, false),
            (0, true, true),
            (1000, true, true),
        ] {
            assert_eq!(closed.contain(uid), by_default, "{uid}");
            assert_eq!(open.contain(uid), by_name, "{uid}");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_private_unless_other_users_are_named() {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("a.sock");
        for (others, expected) in [(&[][..], 0o600), (&[1337], 0o666)] {
            let listener = Listener::bind(&path, others).expect("bound");
            assert_eq!(mode(&path), expected);
            let client = UnixStream::connect(&path);
            let (client, accepted) = tokio::join!(client, listener.accept());
            let (_, address) = accepted.expect("our own");
            let own = client.expect("connected").peer_cred().expect("known").uid();
            assert_eq!(address, PeerAddress::Unix { uid: own });
        }
        assert!(!path.exists(), "removed with its listener");
    }
}
