//! Certificates: hashes for channel binding, names, reloading.

use router_config::settings::Listen;

use super::*;
use crate::testing::certificates::Authority;

fn listen(authority: &Authority, name: &str) -> Listen {
    let pair = authority.issue(name);
    Listen {
        tls: ListenTls::Allow,
        tls_certificate: Some(pair.certificate),
        tls_key: Some(pair.key),
        ..Listen::default()
    }
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(directory.path());
    let mut listen = listen(&authority, "one");
    let tls = ListenerTls::from_settings(&listen).expect("good files").expect("on");
    let first = tls.end_point.clone();
    assert!(first.as_ref().is_some_and(|hash| hash.len() == 32));
    let load = |listen: &Listen| ListenerTls::from_settings(listen).map(|tls| tls.expect("on"));
    let two = authority.issue("two");
    listen.tls_certificate = Some(two.certificate.clone());
    assert!(load(&listen).is_err(), "the key is another's");
    listen.tls_key = Some(two.key);
    assert_ne!(load(&listen).expect("good files").end_point, first);
    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&two.certificate, broken).expect("written");
        assert!(load(&listen).is_err());
    }
    listen.tls_certificate = None;
    assert!(matches!(load(&listen), Err(TlsError::Missing("listen.tls_certificate"))));
    listen.tls = ListenTls::Off;
    assert!(ListenerTls::from_settings(&listen).expect("off").is_none());
}

/// The same without its version: that of version 1, though with extensions, and a signature that does not fit.
fn as_version_1(certificate: &[u8]) -> CertificateDer<'static> {
    const VERSION: [u8; 5] = [0xa0, 3, 2, 1, 2];
    let mut der = certificate.to_vec();
    let at = der.windows(5).position(|bytes| bytes == VERSION).expect("version 3");
    der.drain(at..at + 5);
    // Two sequences with lengths of two bytes are around it.
    for length in [2, at - 2] {
        let shorter = u16::from_be_bytes([der[length], der[length + 1]]) - 5;
        der[length..length + 2].copy_from_slice(&shorter.to_be_bytes());
    }
    der.into()
}

#[test]
fn certificates_of_version_1_are_refused_with_the_cure() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(directory.path());
    let roots = Arc::new(read_roots(&authority.path()).expect("written"));
    let inner = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().expect("roots");
    let verifier = client::Verifier(inner);
    let pair = authority.issue("al");
    let good = CertificateDer::from_pem_file(&pair.certificate).expect("written");
    let verify = |certificate: &CertificateDer<'_>| {
        rustls::server::danger::ClientCertVerifier::verify_client_cert(
            &verifier,
            certificate,
            &[],
            UnixTime::now(),
        )
    };
    verify(&good).expect("version 3");
    let error = verify(&as_version_1(&good)).expect_err("version 1").to_string();
    assert!(error.contains("\"CN=al\"") && error.contains("-extfile"), "{error}");
    let other = verify(&CertificateDer::from(b"garbage".as_slice())).expect_err("none").to_string();
    assert!(!other.contains("version 1"), "{other}");
}

#[test]
fn names_and_hashes_of_certificates() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(directory.path());
    let pair = authority.issue("al");
    let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("written");
    assert_eq!(common_name(&certificate).as_deref(), Some("al"));
    assert_eq!(end_point_hash(&certificate), Some(Sha256::digest(&certificate).to_vec()));
    assert_eq!((common_name(b"garbage"), end_point_hash(b"garbage")), (None, None));
    for (algorithm, bytes) in [(&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)), (&rcgen::PKCS_ED25519, None)] {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("ring makes keys");
        let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed");
        assert_eq!(end_point_hash(certificate.der()).map(|hash| hash.len()), bytes);
    }
}
