"""The files with the keys of a token server: certificates (``rootcertbundle``) and a JWK set (``jwks``)."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import Certificate, load_pem_x509_certificates

from contentcache.auth.files import read_file
from contentcache.auth.interfaces import AuthFault
from contentcache.config.model import TokenAuth
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import TrustedKeys, certified_keys, trusted_keys

_PEM: Final = b"-----BEGIN CERTIFICATE-----"


def read_keys(settings: TokenAuth) -> TrustedKeys:
    """
    Read the files that the settings name.

    :raises AuthFault: one of them cannot be used, or there is no key in them.
    """
    roots = () if settings.rootcertbundle is None else _read_bundle(settings.rootcertbundle)
    keys = certified_keys(roots)
    if settings.jwks is not None:
        try:
            keys |= trusted_keys(read_file(settings.jwks))
        except InvalidJWKError as error:
            raise AuthFault(settings.jwks, f"{settings.jwks} cannot be used: {error}") from None
    if not keys:
        where = settings.rootcertbundle or settings.jwks or "auth.token"
        raise AuthFault(where, f"{where} holds no key that tokens are signed with; use RSA, ECDSA or Ed25519")
    return TrustedKeys(keys, roots)


def _read_bundle(path: str) -> tuple[Certificate, ...]:
    content = read_file(path)
    if _PEM not in content:
        raise AuthFault(path, f"{path} holds no certificate in PEM form")
    try:
        return tuple(load_pem_x509_certificates(content))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthFault(path, f"{path} holds a certificate that is malformed: {error}") from error
