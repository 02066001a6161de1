//! TLS on both sides, and the channel binding data of certificates. The only folder, with `wire::stream`, that names rustls.
//!
//! Invariants: `verify-ca` and `verify-full` never accept a
//! chain that was not checked; where a certificate has no defined `tls-server-end-point` hash, none is offered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use router_config::settings::{Backend, BackendTls, Listen, ListenTls};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::wire::stream::Stream;

mod client;

/// ALPN name of PostgreSQL's protocol, which direct TLS has to negotiate.
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

/// What is wrong with the TLS settings or the files that they name.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no such PEM section.
    #[error("cannot read {what} from {path}: {reason}")]
    File {
        /// "certificate", "key", …
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A setting that the mode needs is missing.
    #[error("{0} is required by the TLS mode")]
    Missing(&'static str),
    /// The key is another certificate's, or of a kind that cannot be used.
    #[error("the private key {key} does not fit the certificate {certificate}: {reason}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        reason: rustls::Error,
    },
    /// The settings cannot be used.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The roots cannot be used.
    #[error("TLS: {0}")]
    Roots(String),
}

/// TLS towards applications: one certificate. A reload makes another one.
pub struct ListenerTls {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// A TLS stream towards an application.
pub struct Accepted {
    /// The stream.
    pub stream: Stream,
    /// Whether ALPN chose `postgresql`.
    pub alpn: bool,
    /// `tls-server-end-point` of the certificate that this handshake showed.
    pub end_point: Option<Arc<[u8]>>,
}

impl ListenerTls {
    /// Loads certificate, key and client roots; `None` when TLS is off.
    pub fn from_settings(listen: &Listen) -> Result<Option<Self>, TlsError> {
        if listen.tls == ListenTls::Off {
            return Ok(None);
        }
        load(listen).map(Some)
    }

    /// The server's side of a handshake.
    pub async fn accept(&self, socket: TcpStream) -> std::io::Result<Accepted> {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).await?;
        let alpn = stream.get_ref().1.alpn_protocol() == Some(ALPN_POSTGRESQL);
        Ok(Accepted { stream: Stream::ServerTls(Box::new(stream)), alpn, end_point: self.end_point.clone() })
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenerTls")
    }
}

fn load(listen: &Listen) -> Result<ListenerTls, TlsError> {
    let certificate = listen.tls_certificate.as_deref().ok_or(TlsError::Missing("listen.tls_certificate"))?;
    let key_file = listen.tls_key.as_deref().ok_or(TlsError::Missing("listen.tls_key"))?;
    let chain = read_certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| file_error("private key", key_file, &error))?;
    let end_point = chain.first().and_then(|own| end_point_hash(own)).map(Arc::from);
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &listen.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            // Whether a certificate is demanded is the authentication method's decision, with an error that says so.
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(path)?), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::Roots(error.to_string()))?;
            builder.with_client_cert_verifier(Arc::new(client::Verifier(verifier)))
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key_file.to_owned(),
        reason,
    })?;
    config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
    // As PostgreSQL: clients of its protocol do not resume sessions, tickets would only cost.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(ListenerTls { config: Arc::new(config), end_point })
}

/// TLS towards nodes.
#[derive(Clone)]
pub struct BackendTlsConnector {
    mode: BackendTls,
    config: Option<Arc<ClientConfig>>,
}

impl BackendTlsConnector {
    /// Loads the roots that the mode needs.
    pub fn from_settings(backend: &Backend) -> Result<Self, TlsError> {
        if backend.tls == BackendTls::Off {
            return Ok(Self { mode: backend.tls, config: None });
        }
        let roots = match (backend.tls, backend.tls_ca.as_deref()) {
            (BackendTls::VerifyCa | BackendTls::VerifyFull, None) => {
                return Err(TlsError::Missing("backend.tls_ca"));
            }
            (BackendTls::VerifyCa | BackendTls::VerifyFull, Some(path)) => Some(Roots {
                anchors: read_roots(path)?,
                certificates: read_certificates(path)?,
                name: backend.tls == BackendTls::VerifyFull,
            }),
            (BackendTls::Off | BackendTls::Prefer | BackendTls::Require, _) => None,
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NodeVerifier { provider: provider(), roots }))
            .with_no_client_auth();
        // PostgreSQL gives no tickets.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { mode: backend.tls, config: Some(Arc::new(config)) })
    }

    /// The mode.
    pub fn mode(&self) -> BackendTls {
        self.mode
    }

    /// The configuration, for connections made otherwise; `None` when TLS is off.
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.config.clone()
    }

    /// The client's side of a handshake with the node named `host`.
    pub async fn connect(&self, host: &str, socket: TcpStream) -> std::io::Result<Stream> {
        let config = self.config.clone().ok_or_else(|| std::io::Error::other("TLS is off"))?;
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        Ok(Stream::ClientTls(Box::new(stream)))
    }
}

impl fmt::Debug for BackendTlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTlsConnector").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// `prefer` and `require` check no chain (as in libpq), `verify-ca` the chain, `verify-full` the name too.
#[derive(Debug)]
struct NodeVerifier {
    provider: Arc<CryptoProvider>,
    roots: Option<Roots>,
}

#[derive(Debug)]
struct Roots {
    anchors: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    name: bool,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // A self-signed certificate that is itself among the roots is trusted, as libpq does.
        if !roots.certificates.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &roots.anchors,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if roots.name {
            rustls::client::verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => Err(file_error("certificate", path, &"no CERTIFICATE section")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(file_error("certificate", path, &error)),
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn file_error(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_owned(), reason: reason.to_string() }
}

/// `tls-server-end-point` of RFC 5929: the certificate hashed with its signature's hash, SHA-256 in place of MD5 and
/// SHA-1; `None` where the signature has no hash (Ed25519).
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let mut name = algorithm.algorithm.to_id_string();
    if name == "1.2.840.113549.1.1.10" {
        // RSASSA-PSS names its hash in the parameters.
        let parsed = x509_parser::signature_algorithm::SignatureAlgorithm::try_from(algorithm).ok()?;
        let x509_parser::signature_algorithm::SignatureAlgorithm::RSASSA_PSS(parameters) = parsed else {
            return None;
        };
        name = parameters.hash_algorithm_oid().to_id_string();
    }
    match name.as_str() {
        // md5WithRSA, sha1WithRSA, sha256WithRSA, ecdsa-with-SHA1, -SHA256; SHA-1 and SHA-256 themselves.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// The common name of a certificate's subject; `None` unless there is exactly one.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
