//! TLS through rustls: which certificates to trust, and which protocol to ask for.

use super::ErrorKind;
use super::options::{Error, Options, Problem};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    http2: bool,
}

impl Tls {
    pub(super) fn new(host: &str, options: &Options) -> Result<Tls, Error> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has what the default versions need");
        let mut config = if options.insecure {
            let anybody = Arc::new(Anybody(provider));
            config.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
        } else {
            config.with_root_certificates(trusted()?).with_no_client_auth()
        };
        config.alpn_protocols = vec![if options.http2 { "h2" } else { "http/1.1" }.into()];
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| Error(Problem::NoHost(format!("https://{host}"))))?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name, http2: options.http2 })
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, ErrorKind> {
        let connecting = self.connector.connect(self.name.clone(), tcp);
        let stream = connecting.await.map_err(|error| match ErrorKind::of_io(&error) {
            ErrorKind::Io => ErrorKind::Tls,
            kind => kind,
        })?;
        // A server without ALPN speaks HTTP/1.1.
        let agreed = stream.get_ref().1.alpn_protocol();
        if self.http2 && agreed != Some(b"h2") {
            return Err(ErrorKind::Tls);
        }
        Ok(stream)
    }
}

/// The certificates that this machine trusts.
fn trusted() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or("there are none".into(), ToString::to_string);
        return Err(Error(Problem::Certificates(why)));
    }
    Ok(roots)
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // The certificate may be anybody's: a signature by its key proves nothing, and checking it
        // would refuse certificates of an old form.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
