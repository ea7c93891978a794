//! The certificate authorities that are trusted where nothing else is configured, and HTTP clients that trust them. The one
//! place that knows their file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Debian's certificate authorities.
const MACHINE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The file to trust: the configured one, or the machine's own.
#[must_use]
pub fn file(configured: Option<&Path>) -> PathBuf {
    configured.unwrap_or_else(|| Path::new(MACHINE)).to_owned()
}

/// What is in that file (PEM). A machine without one of its own trusts nobody: it can still speak over a plain line.
///
/// # Errors
/// The configured file, and why it cannot be read.
pub fn pem(configured: Option<&Path>) -> Result<Vec<u8>, (PathBuf, io::Error)> {
    let file = file(configured);
    match std::fs::read(&file) {
        Err(_) if configured.is_none() => Ok(Vec::new()),
        read => read.map_err(|error| (file, error)),
    }
}

/// How an HTTP client speaks TLS that trusts these.
#[must_use]
pub fn tls(pem: &[u8]) -> ureq::tls::TlsConfig {
    let certificates = ureq::tls::parse_pem(pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&certificates.collect::<Vec<_>>()))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_file_must_be_there_and_the_machines_own_need_not() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.pem");
        let (named, error) = pem(Some(&missing)).unwrap_err();
        assert_eq!((named, error.kind()), (missing.clone(), io::ErrorKind::NotFound));
        std::fs::write(&missing, "x").unwrap();
        assert_eq!(pem(Some(&missing)).unwrap(), b"x");
        assert!(pem(None).is_ok());
        assert_eq!(file(None), Path::new(MACHINE));
    }
}
