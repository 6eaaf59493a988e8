//! TLS in front of the server, with certificates that are made on the spot.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::FakeApiServer;

/// A certificate authority, as every cluster has one.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "cluster");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate: what `ca.crt` holds.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server of these names and addresses shows.
    fn server(&self, names: &[&str]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApiServer {
    /// Takes connections with TLS there, too, for as long as the process lives; `names` are those of the certificate.
    /// To be called in the network namespace of both.
    pub fn with_tls(&self, listener: TcpListener, authority: &Authority, names: &[&str]) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(names)));
        let inside = self.address;
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(forward(acceptor.clone(), stream, inside));
                }
            });
        });
        address
    }
}

async fn forward(acceptor: TlsAcceptor, stream: TcpStream, inside: SocketAddr) -> std::io::Result<()> {
    let mut outer = acceptor.accept(stream).await?;
    let mut inner = TcpStream::connect(inside).await?;
    tokio::io::copy_bidirectional(&mut outer, &mut inner).await?;
    Ok(())
}
