"""
A configuration in the format of the file, with every default filled in and every secret hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs
import yaml

from contentcache.config.downstream import LIMITS
from contentcache.config.model import (
    Address,
    Configuration,
    CredentialHelper,
    Downstream,
    Gateway,
    Http,
    LetsEncrypt,
    Limits,
    ServerTLS,
    TokenAuth,
    Upstream,
)
from contentcache.config.origins import asked
from contentcache.core import durations, sizes

HIDDEN: Final = "***"

_SECRET = re.compile(r"password|passwd|secret|credential|token", re.IGNORECASE)
_SIZES: Final = frozenset({"manifest", "token", "headers"})


def render(configuration: Configuration) -> str:
    """
    The text of a file that means the same, but for what is hidden.
    """
    log, storage = configuration.log, configuration.storage
    driver = {"rootdirectory": storage.rootdirectory, "maxthreads": storage.maxthreads}
    tree = {
        "version": 0.1,
        "workers": configuration.workers,
        "log": {
            "level": log.level,
            "formatter": log.formatter,
            "fields": {key: HIDDEN if _SECRET.search(key) else value for key, value in log.fields.items()},
            "accesslog": {"disabled": not log.accesslog},
        },
        "storage": {
            storage.driver: driver if storage.driver == "filesystem" else {},
            "delete": {"enabled": storage.delete},
        },
        "auth": _auth(configuration),
        "http": _http(configuration.http),
        "middleware": {"registry": [_middleware(configuration.middleware)]},
    }
    return yaml.safe_dump(_given(tree), sort_keys=False, width=1000)


def _auth(configuration: Configuration) -> dict[str, object] | None:
    auth = configuration.auth
    if auth is None:
        return None
    entries = {
        key: list(value) if isinstance(value, tuple) else value for key, value in attrs.asdict(auth).items()
    }
    if not isinstance(auth, TokenAuth):
        return {"htpasswd": entries}
    if not auth.autoredirect:
        del entries["autoredirectpath"]
    return {"token": _given(entries)}


def _middleware(middleware: Downstream | Gateway) -> dict[str, object]:
    if isinstance(middleware, Gateway):
        return {"name": "redirect", "options": _gateway(middleware)}
    return {"name": "downstream", "options": _options(middleware)}


def _http(http: Http) -> dict[str, object]:
    tls = None if http.tls is None else _tls(http.tls)
    debug = None
    if http.debug is not None:
        prometheus = _given({"enabled": http.debug.prometheus is not None, "path": http.debug.prometheus})
        debug = {"addr": _address(http.debug.addr), "prometheus": prometheus}
    return _given(
        {
            "addr": _address(http.addr),
            "net": "tcp" if http.addr.path is None else "unix",
            "prefix": None if http.prefix == "/" else http.prefix,
            "host": http.host,
            "draintimeout": durations.spell(http.draintimeout),
            "headers": {
                name: [HIDDEN] if _SECRET.search(name) else list(values)
                for name, values in http.headers.items()
            },
            "tls": tls,
            "debug": debug,
        }
    )


def _gateway(gateway: Gateway) -> dict[str, object]:
    account = gateway.account
    written = {field.name: getattr(gateway, field.name) for field in attrs.fields(Gateway)}
    options: dict[str, object] = {
        name: durations.spell(value)
        if isinstance(value, float)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in written.items()
    }
    return _given(
        {
            **options,
            "minimumsize": sizes.spell(gateway.minimumsize),
            "account": None if account is None else {"username": account.username, "password": HIDDEN},
            "networks": dict(gateway.networks),
            "limits": _limits(gateway.limits),
        }
    )


def _tls(tls: ServerTLS) -> dict[str, object]:
    listed = {"clientcas": list(tls.clientcas), "ciphersuites": list(tls.ciphersuites)}
    issued = {"letsencrypt": None if tls.letsencrypt is None else _letsencrypt(tls.letsencrypt)}
    shown = _given({**attrs.asdict(tls, recurse=False), **listed, **issued})
    if not tls.clientcas:
        shown.pop("clientauth")
    return shown


def _letsencrypt(settings: LetsEncrypt) -> dict[str, object]:
    return _given(
        {
            "cachefile": settings.directory,
            "email": settings.email,
            "hosts": list(settings.hosts),
            "directoryurl": settings.directoryurl,
            "directoryca": settings.directoryca,
            "http": None if settings.http is None else _address(settings.http),
            "eab": None if settings.eab is None else {"kid": settings.eab.kid, "hmackey": HIDDEN},
            "challenge": settings.challenge,
            "profile": settings.profile,
            "lifetime": None if settings.lifetime is None else durations.spell(settings.lifetime),
        }
    )


def _options(downstream: Downstream) -> dict[str, object]:
    options: dict[str, object] = {
        "blobttl": None if downstream.blobttl is None else durations.spell(downstream.blobttl),
        "cas": list(downstream.cas),
        "keepdeleted": downstream.keepdeleted,
        "maxsize": None if downstream.maxsize is None else sizes.spell(downstream.maxsize),
        "minfree": sizes.spell(downstream.minfree),
        "fetchesperhost": downstream.fetchesperhost,
        "fillafter": downstream.fillafter,
        "scrub": None if downstream.scrub is None else durations.spell(downstream.scrub),
        "fastpath": "auto" if downstream.fastpath else "off",
    }
    for name in ("authttl", "affirmttl", "sweepinterval", "staleiferror", "stalltimeout", "connecttimeout"):
        options[name] = durations.spell(getattr(downstream, name))
    options["signing"] = _given(attrs.asdict(downstream.signing))
    return _given({**_upstreams(downstream.upstreams), **options, "limits": _limits(downstream.limits)})


def _upstreams(upstreams: tuple[Upstream, ...]) -> dict[str, object]:
    if any(upstream.issuer is None for upstream in upstreams):
        # Next hops of an origin that has no name here: only the plain list can say that.
        return {"upstreams": [url for upstream in upstreams for url in upstream.origin.split()]}
    return {"upstreams": [_upstream(upstream) for upstream in upstreams]}


def _upstream(upstream: Upstream) -> dict[str, object]:
    account = upstream.account
    return _given(
        {
            "originhost": upstream.origin,
            "upstreamhosts": [] if upstream.hosts == (asked(upstream.origin),) else list(upstream.hosts),
            "fallbacktoorigin": True if upstream.fallback else None,
            "names": sorted(upstream.names),
            "hosts": sorted(upstream.served),
            "prefix": upstream.prefix,
            "username": None if account is None else account.username,
            "password": None if account is None else HIDDEN,
            "exec": None if upstream.helper is None else _helper(upstream.helper),
            "public": upstream.public,
            "allow": list(upstream.allow),
            "deny": list(upstream.deny),
            "immutabletags": upstream.immutabletags,
            "certificate": upstream.certificate,
            "key": upstream.key,
            "realms": list(upstream.realms),
            "redirects": list(upstream.redirects),
        }
    )


def _helper(helper: CredentialHelper) -> dict[str, object]:
    # Which of the arguments are secrets, only the program knows.
    program, *arguments = helper.command
    lifetime = None if helper.lifetime is None else durations.spell(helper.lifetime)
    return _given({"command": [program, *(HIDDEN for _ in arguments)], "lifetime": lifetime})


def _limits(limits: Limits) -> dict[str, object]:
    def spelt(name: str, value: int | float) -> object:
        if name in _SIZES:
            return sizes.spell(int(value))
        return durations.spell(value) if isinstance(value, float) else value

    given = {name: getattr(limits, name) for name in LIMITS}
    return {name: spelt(name, value) for name, value in given.items() if value is not None}


def _address(address: Address) -> str:
    if address.path is not None:
        return address.path
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def _given(entries: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in entries.items() if value not in (None, "", [], {})}
