"""A server that speaks TLS, made of a plain one; and certificates for it, good and bad."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.proxy import Proxy

HOSTS = ("127.0.0.1", "localhost")


def tls_terminator(
    target_port: int,
    certificate: trustme.LeafCert | ssl.SSLContext,
    *,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> Proxy:
    """A proxy before a plain server that speaks TLS to its clients; has all the faults and counts of a proxy."""
    return Proxy(target_port, tls=_context(certificate, minimum, maximum))


def good(authority: trustme.CA) -> trustme.LeafCert:
    """For this machine's names, now."""
    return authority.issue_cert(*HOSTS)


def for_another_host(authority: trustme.CA) -> trustme.LeafCert:
    """Valid, for a name that no host here has."""
    return authority.issue_cert("elsewhere.test")


def expired(authority: trustme.CA) -> trustme.LeafCert:
    """Valid until yesterday."""
    now = datetime.now(timezone.utc)
    return authority.issue_cert(*HOSTS, not_before=now - timedelta(days=30), not_after=now - timedelta(days=1))


def from_another_authority() -> trustme.LeafCert:
    """For this machine's names, by an unknown authority."""
    return good(trustme.CA())


def self_signed() -> trustme.LeafCert:
    """For this machine's names, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed_with(key).public_bytes(Encoding.PEM)
    return trustme.LeafCert(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), certificate, []
    )


def authority_file(authority: trustme.CA, directory: Path) -> Path:
    """A PEM file of the authority's certificate, as settings name it."""
    path = directory / "authority.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return path


def _context(
    certificate: trustme.LeafCert | ssl.SSLContext, minimum: ssl.TLSVersion, maximum: ssl.TLSVersion
) -> ssl.SSLContext:
    if isinstance(certificate, ssl.SSLContext):
        return certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    context.minimum_version, context.maximum_version = minimum, maximum
    return context


def _self_signed_with(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "itself")])
    now = datetime.now(timezone.utc)
    names = trustme.CA().issue_cert(*HOSTS)  # its subjectAltName, which is tedious to write
    alternatives = x509.load_pem_x509_certificate(names.cert_chain_pems[0].bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return builder.add_extension(alternatives.value, critical=False).sign(key, hashes.SHA256())
