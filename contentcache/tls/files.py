"""Certificates and keys in PEM files, read with errors that name the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import (
    Certificate,
    DNSName,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    load_pem_x509_certificate,
)
from OpenSSL import SSL

from contentcache.persist.atomic_file import UnusableFileError, read_configured

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)

#: The kinds of keys that TLS has signatures for.
_KEYS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)

#: No PEM file is larger; a wrong path may name anything.
_MAX_SIZE = 8 << 20

_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----(?:[^-]++|-(?!----))*+-----END (?:X509 )?CERTIFICATE-----"
)
_KEY = re.compile(
    rb"-----BEGIN ((?:(?!PRIVATE )[A-Z]++ )*+PRIVATE KEY)-----(?:[^-]++|-(?!----))*+-----END \1-----"
)


class TLSConfigurationError(UnusableFileError):
    """A certificate, key or setting cannot be used. ``message`` is a sentence that names the file."""


class Reloadable(Protocol):
    """Reads its files again on ``SIGHUP``."""

    def read(self) -> Callable[[], None]:
        """
        Read the files again, in a thread; what is returned uses them for new connections.

        :raises TLSConfigurationError: they cannot be used.
        """


class KeyMismatchError(TLSConfigurationError):
    """A key and a certificate do not belong together."""


@frozen
class Identity:
    """A certificate with the chain above it, and the private key that belongs to it."""

    chain: tuple[Certificate, ...]
    key: PrivateKey

    def apply_to(self, context: SSL.Context) -> None:
        """Use this certificate for connections of ``context``."""
        leaf, *issuers = self.chain
        context.use_certificate(leaf)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(self.key)


def read_certificates(path: str) -> tuple[Certificate, ...]:
    """
    Every certificate in a PEM file, in order; text and keys around them are skipped.

    Raises ``TLSConfigurationError`` where the file cannot be read, or holds no certificate or a broken one.
    """
    return _certificates(path, _read(path))


def _certificates(path: str, content: bytes) -> tuple[Certificate, ...]:
    blocks = _CERTIFICATE.findall(content)
    if not blocks:
        raise TLSConfigurationError(path, f"{path} holds no certificate in PEM form")
    try:
        return tuple(load_pem_x509_certificate(block) for block in blocks)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TLSConfigurationError(path, f"{path} holds a certificate that is damaged: {error}") from error


def names_of(certificate: Certificate) -> list[str]:
    """The DNS names and IP addresses of a certificate, in lower case."""
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):
        return []
    hosts = [name.lower() for name in names.get_values_for_type(DNSName)]
    return hosts + [str(address) for address in names.get_values_for_type(IPAddress)]


def read_authorities(paths: Sequence[str]) -> tuple[Certificate, ...]:
    """The certificates of several files together."""
    return tuple(certificate for path in paths for certificate in read_certificates(path))


def read_identity(certificate: str, key: str) -> Identity:
    """
    A chain, the leaf first, and its key; both may be in one file.

    Raises ``TLSConfigurationError`` also where the two do not belong together.
    """
    return _checked_identity(
        _certificates(certificate, _read(certificate)), _key(key, _read(key)), certificate, key
    )


def identity_from_pem(path: str, content: bytes) -> Identity:
    """A chain and its key from the content of one PEM file; errors call it ``path``."""
    return _checked_identity(_certificates(path, content), _key(path, content), path, path)


def _checked_identity(
    chain: tuple[Certificate, ...], private: PrivateKey, certificate: str, key: str
) -> Identity:
    try:
        belongs = _public(chain[0].public_key()) == _public(private.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TLSConfigurationError(
            certificate, f"{certificate} has a public key of an unknown kind: {error}"
        ) from error
    if not belongs:
        message = (
            f"{key} holds a key that is not that of its first certificate; the leaf comes first"
            if key == certificate
            else f"{key} is not the key of the first certificate in {certificate}; the leaf comes first"
        )
        raise KeyMismatchError(key, message)
    return Identity(chain, private)


def _key(path: str, content: bytes) -> PrivateKey:
    """The first private key in a PEM file."""
    block = _KEY.search(content)
    if block is None:
        raise TLSConfigurationError(path, f"{path} holds no private key in PEM form")
    try:
        key = load_pem_private_key(block[0], password=None)
    except TypeError as error:
        raise TLSConfigurationError(
            path, f"{path} is encrypted; a daemon cannot type a passphrase, so the key has to be plain"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TLSConfigurationError(path, f"{path} holds a private key that is damaged: {error}") from error
    if not isinstance(key, _KEYS):
        raise TLSConfigurationError(
            path, f"{path} holds a key that TLS cannot sign with; use RSA, ECDSA or Ed25519"
        )
    return key


def _public(key: object) -> bytes:
    """A public key as bytes that can be compared."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return bytes(encoded)


def _read(path: str) -> bytes:
    """A whole file, up to the size limit."""
    try:
        return read_configured(path, _MAX_SIZE)
    except UnusableFileError as error:
        raise TLSConfigurationError(path, error.message) from error
