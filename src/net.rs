//! Sockets: binding, accepting, TLS and who is at the other end, for gRPC and HTTP
//! alike.

pub mod probe;
pub mod serve;
mod tls;
mod unix;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::timeout,
};

pub use self::tls::{Certificates, TlsError, check_tls};
use crate::{
    config::{Address, ListenerConfig},
    identity::{Peer, PeerAddress},
};

/// A client that does not finish its handshake is dropped after this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many handshakes a listener has at once; who comes then is turned away.
const HANDSHAKES: usize = 256;
/// Accepted connections that wait for their server.
const BACKLOG: usize = 128;

/// A bound socket, not yet accepting.
pub struct Bound {
    socket: Socket,
    tls: Option<Arc<Certificates>>,
    address: Address,
}

enum Socket {
    Tcp(TcpListener),
    /// All addresses, of which those beyond loopback are told apart.
    Everywhere(TcpListener),
    Unix(unix::Listener),
}

/// Accepted connections, with their TLS handshake done.
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    address: Address,
}

/// A connection of any kind, and who is at its other end.
pub struct Connection {
    io: Pin<Box<dyn Io>>,
    peer: Arc<Peer>,
    /// It was made to an address beyond the one that is configured.
    beyond: bool,
}

/// A connection as a socket has it.
struct Accepted {
    io: Pin<Box<dyn Io>>,
    address: PeerAddress,
    beyond: bool,
}

/// What axum tells handlers of a connection.
#[derive(Clone, Debug)]
pub struct RemotePeer(pub Arc<Peer>);

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
    /// Binds the listener of that name and reads its certificates; `alpn` are the
    /// protocols that TLS offers.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn new(
        name: &'static str,
        config: &ListenerConfig,
        alpn: &[&str],
    ) -> Result<Self, ListenError> {
        let tls = config.tls.as_ref().map(|tls| Certificates::read(name, tls, alpn).map(Arc::new));
        let tls = tls.transpose()?;
        let failed = |source| ListenError::Bind { address: config.address.clone(), source };
        let (socket, address) = match &config.address {
            Address::Tcp(address) if config.health_on_all_addresses => {
                let listener = everywhere(address.port()).map_err(failed)?;
                let port = listener.local_addr().map_err(failed)?.port();
                let address = SocketAddr::new(address.ip(), port);
                (Socket::Everywhere(listener), Address::Tcp(address))
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                (Socket::Tcp(listener), Address::Tcp(address))
            }
            Address::Unix(path) => {
                let listener = unix::Listener::bind(path, &config.peer_uids).map_err(failed)?;
                (Socket::Unix(listener), config.address.clone())
            }
        };
        Ok(Self { socket, tls, address })
    }

    /// Where it is bound; a port of 0 has become a real one.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its certificates, to be exchanged.
    #[must_use]
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.tls.as_ref()
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
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = sender.closed() => return,
            };
            match (accepted, &self.tls) {
                (Ok(Accepted { io, address, beyond }), None) => {
                    let peer = Arc::new(Peer::new(address, None));
                    if sender.send(Connection { io, peer, beyond }).await.is_err() {
                        return;
                    }
                }
                (Ok(Accepted { io, address, beyond }), Some(tls)) => {
                    // Nobody knows who it is yet: so many may take their time, and no more.
                    let Ok(slot) = Arc::clone(&handshakes).try_acquire_owned() else {
                        tracing::debug!(listener = %self.address, "too many handshakes");
                        continue;
                    };
                    let (tls, sender) = (tls.acceptor(), sender.clone());
                    tokio::spawn(async move {
                        let shaken = timeout(HANDSHAKE, tls.accept(io)).await;
                        drop(slot);
                        if let Ok(Ok(stream)) = shaken {
                            let chain = stream.get_ref().1.peer_certificates();
                            let leaf = chain.and_then(<[_]>::first).map(AsRef::as_ref);
                            let peer = Arc::new(Peer::new(address, leaf));
                            let io = Box::pin(stream);
                            let _ = sender.send(Connection { io, peer, beyond }).await;
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
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) | Self::Everywhere(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without this, small gRPC answers wait 40 ms for an acknowledgement.
                stream.set_nodelay(true)?;
                let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
                // By both ends: a machine may be made to route loopback addresses.
                let beyond = matches!(self, Self::Everywhere(_))
                    && !(is_loopback(stream.local_addr()?.ip()) && is_loopback(address.ip()));
                let address = PeerAddress::of_ip(address.ip());
                Ok(Accepted { io: Box::pin(stream), address, beyond })
            }
            Self::Unix(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted { io: Box::pin(stream), address, beyond: false })
            }
        }
    }
}

/// A listener on all addresses of both families; of IPv4 where there is no other.
fn everywhere(port: u16) -> io::Result<TcpListener> {
    let new = |domain| socket2::Socket::new(domain, socket2::Type::STREAM, None);
    let (socket, address) = match new(socket2::Domain::IPV6) {
        Ok(socket) => {
            // Whatever the machine's own default is.
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(_) => (new(socket2::Domain::IPV4)?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
    };
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
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
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl Connected<IncomingStream<'_, Incoming>> for RemotePeer {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        Self(Arc::clone(&stream.io().peer))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
