"""
The certificate chain of a JWS header or a JWK (``x5c``, RFC 7515 §4.1.6), verified to a trusted certificate.

Nothing is fetched. As in docker/distribution, key usage does not matter, and each trusted certificate ends a
chain; one that is no authority certifies only its own key.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate, load_der_x509_certificate
from OpenSSL import crypto

from contentcache.jose.jwa import PublicKey, is_supported

#: A leaf, and more intermediates than anybody has.
MAX_CERTIFICATES: Final = 8
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)


class InvalidChainError(ValueError):
    """A chain does not lead to a trusted certificate. The message is a predicate for the token."""


@frozen
class CertifiedKey:
    """The key of a valid chain's leaf, until its first certificate expires (seconds since the epoch)."""

    public: PublicKey
    expires: float


def verify_chain(x5c: object, roots: Sequence[Certificate], now: float) -> CertifiedKey:
    """
    Verify a chain, the leaf first, at ``now`` (seconds since the epoch).

    :raises InvalidChainError: it is malformed, not valid now, or does not end at one of ``roots``.
    """
    try:
        leaf, *intermediates = _parse(x5c)
        chain = _verify(leaf, intermediates, roots, now)
        key = leaf.public_key()
    except InvalidChainError:
        raise
    except (crypto.X509StoreContextError, crypto.Error) as error:
        raise InvalidChainError(f"has a certificate chain that is not trusted: {error}") from None
    except (ValueError, TypeError, OverflowError, OSError, UnsupportedAlgorithm):
        raise InvalidChainError("has a malformed 'x5c'") from None
    if not is_supported(key):
        raise InvalidChainError("has a certificate whose key is not supported for tokens")
    return CertifiedKey(key, min(each.not_valid_after_utc.timestamp() for each in chain))


def _parse(x5c: object) -> list[Certificate]:
    if not isinstance(x5c, list) or not 0 < len(x5c) <= MAX_CERTIFICATES:
        raise InvalidChainError(f"has an 'x5c' that is not a list of 1 to {MAX_CERTIFICATES} certificates")
    try:
        return [load_der_x509_certificate(b64decode(entry, validate=True)) for entry in x5c]
    except (binascii.Error, ValueError, TypeError):
        raise InvalidChainError("has a malformed certificate in its 'x5c'") from None


def _verify(
    leaf: Certificate, intermediates: Sequence[Certificate], roots: Sequence[Certificate], now: float
) -> list[Certificate]:
    """The whole chain, with the trusted certificate at its end."""
    store = crypto.X509Store()
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    # Any trusted certificate ends a chain, including one that is not self-signed.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(datetime.fromtimestamp(now, UTC))
    untrusted = [crypto.X509.from_cryptography(each) for each in intermediates]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), untrusted)
    chain = [certificate.to_cryptography() for certificate in context.get_verified_chain()]
    # The last one is trusted for what it is; the others only for their signatures.
    if any(isinstance(each.signature_hash_algorithm, _WEAK_HASHES) for each in chain[:-1]):
        raise InvalidChainError("has a certificate with a signature over a weak hash")
    return chain
