//! URI names in a client certificate, of a connection of our own or one that Envoy
//! passed along. The chain has been validated before, by whoever ended TLS.
//!
//! Envoy reports only the *first* URI SAN as the principal; a certificate with two
//! would pass as the first. The certificate is therefore read once more, for its
//! names alone.

use percent_encoding::percent_decode_str;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate,
    pem::parse_x509_pem,
};

use super::{evidence::IdentityError, spiffe::SpiffeId};

/// Longest certificate that is read, in bytes of percent-encoded PEM.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// Why a certificate does not support the principal that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a PEM-encoded X.509 certificate.
    #[error("client certificate cannot be read")]
    Unreadable,
    /// SPIFFE X509-SVID, section 2: exactly one URI SAN.
    #[error("client certificate has {0} URI names, exactly one is required")]
    UriNames(usize),
    /// The name in the certificate is not the reported principal.
    #[error("client certificate names another identity")]
    OtherIdentity,
}

/// Checks that the certificate holds exactly one URI SAN and that it is `principal`.
///
/// `certificate` is percent-encoded PEM, as in `source.certificate` of a
/// `CheckRequest`. It is percent-decoded, not form-decoded: `+` is base64.
pub(super) fn supports(principal: &str, certificate: &str) -> Result<(), CertificateError> {
    if certificate.len() > MAX_CERTIFICATE {
        return Err(CertificateError::Unreadable);
    }
    let pem: Vec<u8> = percent_decode_str(certificate).collect();
    let (_, pem) = parse_x509_pem(&pem).map_err(|_| CertificateError::Unreadable)?;
    let certificate = pem.parse_x509().map_err(|_| CertificateError::Unreadable)?;
    match only_uri(&certificate)? == principal {
        true => Ok(()),
        false => Err(CertificateError::OtherIdentity),
    }
}

/// The service account that a certificate in DER names.
pub(super) fn spiffe_id(der: &[u8]) -> Result<SpiffeId, IdentityError> {
    let (rest, certificate) =
        parse_x509_certificate(der).map_err(|_| CertificateError::Unreadable)?;
    if !rest.is_empty() {
        return Err(CertificateError::Unreadable.into());
    }
    Ok(SpiffeId::parse(only_uri(&certificate)?)?)
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, CertificateError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Unreadable)?
        .map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (first, more) => Err(CertificateError::UriNames(usize::from(first.is_some()) + more)),
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

    fn certificate(uris: &[&str], dns: &[&str]) -> String {
        let as_uri = |name: &&str| SanType::URI((*name).try_into().expect("ASCII name"));
        let as_dns = |name: &&str| SanType::DnsName((*name).try_into().expect("ASCII name"));
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(as_uri).chain(dns.iter().map(as_dns)).collect();
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn a_certificate_must_name_exactly_the_principal() {
        use CertificateError as E;
        let other = "spiffe://cluster.local/ns/prod/sa/other";
        let cases = [
            (certificate(&[], &["api.prod.svc"]), Err(E::UriNames(0))),
            (certificate(&[], &[API]), Err(E::UriNames(0))),
            (certificate(&[API, other], &[]), Err(E::UriNames(2))),
            (certificate(&[other], &[]), Err(E::OtherIdentity)),
            ("not a certificate".to_owned(), Err(E::Unreadable)),
            (String::new(), Err(E::Unreadable)),
            ("a".repeat(MAX_CERTIFICATE + 1), Err(E::Unreadable)),
            (certificate(&[API], &["api.prod.svc"]), Ok(())),
        ];
        for (certificate, expected) in cases {
            assert_eq!(supports(API, &certificate), expected, "{certificate:.60}");
        }
    }
}
