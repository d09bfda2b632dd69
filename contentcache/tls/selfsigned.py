"""Self-signed certificates: placeholders until one is issued, and answers to ``tls-alpn-01``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contentcache.tls.files import Identity

#: ``id-pe-acmeIdentifier`` (RFC 8737 §6.1).
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")

_DAY: Final = timedelta(days=1)
_MAX_COMMON_NAME: Final = 64
_DER_OCTETS: Final = 4


def placeholder_certificate(host: str, now: datetime) -> Identity:
    """A certificate for ``host`` that no client trusts, valid for a year."""
    return _signed(_builder(host, now - _DAY, now + 365 * _DAY), ec.generate_private_key(ec.SECP256R1()))


def challenge_certificate(host: str, digest: bytes, now: datetime) -> Identity:
    """
    The certificate that answers ``tls-alpn-01`` for ``host``, with the SHA-256 of the key authorization in a
    critical extension (RFC 8737 §3).
    """
    octets = bytes([_DER_OCTETS, len(digest)]) + digest
    builder = _builder(host, now - _DAY, now + 7 * _DAY).add_extension(
        x509.UnrecognizedExtension(ACME_IDENTIFIER, octets), critical=True
    )
    return _signed(builder, ec.generate_private_key(ec.SECP256R1()))


def _builder(host: str, not_before: datetime, not_after: datetime) -> x509.CertificateBuilder:
    # A common name has at most 64 characters; only the alternative name counts.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:_MAX_COMMON_NAME])])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> Identity:
    return Identity((builder.public_key(key.public_key()).sign(key, SHA256()),), key)
