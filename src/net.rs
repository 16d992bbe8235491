//! Sockets: binding, accepting and TLS, for gRPC and HTTP alike.

mod tls;

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

pub use self::tls::{TlsError, check_tls};
use crate::config::{Address, ListenerConfig};

/// A client that does not finish its handshake is dropped after this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Accepted connections that wait for their server.
const BACKLOG: usize = 128;

/// A bound socket, not yet accepting.
pub struct Bound {
    socket: Socket,
    tls: Option<TlsAcceptor>,
    address: Address,
}

enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Held for its drop.
        _file: SocketFile,
    },
}

/// Removes the file of a unix socket when the listener goes.
struct SocketFile(PathBuf);

/// Accepted connections, with their TLS handshake done.
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    address: Address,
}

/// A connection of any kind.
pub struct Connection(Pin<Box<dyn Io>>);

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A listener that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

// === impl Bound ===

impl Bound {
    /// Binds a listener and reads its certificates; `alpn` are the protocols that
    /// TLS offers.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn new(config: &ListenerConfig, alpn: &[&str]) -> Result<Self, ListenError> {
        let tls = config.tls.as_ref().map(|tls| tls::acceptor(tls, alpn)).transpose()?;
        let failed = |source| ListenError::Bind { address: config.address.clone(), source };
        let (socket, address) = match &config.address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                (Socket::Tcp(listener), Address::Tcp(address))
            }
            Address::Unix(path) => {
                remove_stale(path).map_err(failed)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile(path.clone());
                (Socket::Unix { listener, _file: file }, config.address.clone())
            }
        };
        Ok(Self { socket, tls, address })
    }

    /// Where it is bound; a port of 0 has become a real one.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Starts accepting.
    #[must_use]
    pub fn accept(self) -> Incoming {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let address = self.address.clone();
        tokio::spawn(self.run(sender));
        Incoming { connections, address }
    }

    async fn run(self, sender: mpsc::Sender<Connection>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = sender.closed() => return,
            };
            match (accepted, &self.tls) {
                (Ok(connection), None) => {
                    if sender.send(connection).await.is_err() {
                        return;
                    }
                }
                (Ok(connection), Some(tls)) => {
                    let (tls, sender) = (tls.clone(), sender.clone());
                    tokio::spawn(async move {
                        if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(connection)).await {
                            let _ = sender.send(Connection(Box::pin(stream))).await;
                        }
                    });
                }
                (Err(error), _) => {
                    // Most often out of file descriptors: give others time to close.
                    tracing::warn!(listener = %self.address, %error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without this, small gRPC answers wait 40 ms for an acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Connection(Box::pin(stream)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(Connection(Box::pin(stream)))
            }
        }
    }
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
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

// === impl Incoming ===

impl futures_util::Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = String;

    async fn accept(&mut self) -> (Connection, String) {
        match self.connections.recv().await {
            Some(connection) => (connection, String::new()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.address.to_string())
    }
}

// === impl Connection ===

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
