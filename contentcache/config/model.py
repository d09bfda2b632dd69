"""
A configuration, read and checked: frozen values that the rest of the program takes.

Times are seconds, sizes are bytes, ``None`` means "without bound" or "not given". The values and the
descriptions of their keys are in :mod:`contentcache.config.schema`; here is one place to import them from.
"""

from __future__ import annotations

from contentcache.config.schema.configuration import (
    Configuration,
    HtpasswdAuth,
    Level,
    Log,
    StorageSettings,
    TokenAuth,
)
from contentcache.config.schema.downstream import GIB, MIB, Downstream, Limits
from contentcache.config.schema.gateway import Gateway
from contentcache.config.schema.http import (
    LETS_ENCRYPT,
    Address,
    ClientAuth,
    Debug,
    ExternalAccount,
    Http,
    LetsEncrypt,
    ServerTLS,
)
from contentcache.config.schema.upstream import Account, CredentialHelper, Signing, Upstream

__all__ = [
    "GIB",
    "LETS_ENCRYPT",
    "MIB",
    "Account",
    "Address",
    "ClientAuth",
    "Configuration",
    "CredentialHelper",
    "Debug",
    "Downstream",
    "ExternalAccount",
    "Gateway",
    "HtpasswdAuth",
    "Http",
    "LetsEncrypt",
    "Level",
    "Limits",
    "Log",
    "ServerTLS",
    "Signing",
    "StorageSettings",
    "TokenAuth",
    "Upstream",
]
