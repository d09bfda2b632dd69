"""A configuration in the format of the file, with every default filled in and every secret hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
import yaml

from contentcache.config.model import (
    Account,
    Configuration,
    Downstream,
    Gateway,
    Http,
    LetsEncrypt,
    Log,
    ServerTLS,
    StorageSettings,
    TokenAuth,
    Upstream,
)
from contentcache.config.origins import url_to_request
from contentcache.config.schema.gateway import CACHE_ONLY_LIMITS
from contentcache.config.schema.kinds import HIDDEN
from contentcache.config.schema.options import described, option_of

_SECRET = re.compile(r"password|passwd|secret|credential|token", re.IGNORECASE)


def render(configuration: Configuration) -> str:
    """The text of a file that means the same, but for what is hidden."""
    return yaml.safe_dump(as_tree(configuration), sort_keys=False, width=1000)


def as_tree(configuration: Configuration) -> dict[str, object]:
    """The same as the values that YAML and JSON have."""
    tree = {
        "version": 0.1,
        "workers": configuration.workers,
        "log": _log(configuration.log),
        "storage": _storage(configuration.storage),
        "auth": _auth(configuration),
        "http": _http(configuration.http),
        "middleware": {"registry": [_middleware(configuration.middleware)]},
    }
    return _given(tree)


def _values(value: Any, **by_hand: object) -> dict[str, object]:
    """
    The keys of a described value, each as its kind is written; ``by_hand`` has those that code wrote, by
    their keys with ``_`` for a dot.
    """
    written: dict[str, object] = {}
    for each in described(type(value)):
        key, name = each.option.key, each.option.key.replace(".", "_")
        if name in by_hand:
            _put(written, key, by_hand[name])
        elif not each.by_hand or each.option.kind.each or each.option.key == each.field:
            found = getattr(value, each.field)
            _put(written, key, None if found is None else each.option.kind.spell(found))
    return _given(written)


def _put(tree: dict[str, object], key: str, value: object) -> None:
    section, dot, rest = key.partition(".")
    if not dot:
        tree[key] = value
    elif value not in (None, "", [], {}):
        inner = tree.setdefault(section, {})
        if isinstance(inner, dict):
            _put(inner, rest, value)


def _log(log: Log) -> dict[str, object]:
    fields = {key: HIDDEN if _SECRET.search(key) else value for key, value in log.fields.items()}
    return _values(
        log, fields=fields, accesslog_disabled=not log.accesslog, accesslog_probes=log.accesslog_probes
    )


def _storage(storage: StorageSettings) -> dict[str, object]:
    written = _values(storage, inmemory=None)
    if storage.driver == "filesystem":
        return written
    del written["filesystem"]
    return {storage.driver: {}, **written}


def _auth(configuration: Configuration) -> dict[str, object] | None:
    auth = configuration.auth
    if auth is None:
        return None
    if not isinstance(auth, TokenAuth):
        return {"htpasswd": _values(auth)}
    entries = _values(auth)
    if not auth.autoredirect:
        del entries["autoredirectpath"]
    return {"token": entries}


def _middleware(middleware: Downstream | Gateway) -> dict[str, object]:
    if isinstance(middleware, Gateway):
        return {"name": "redirect", "options": _gateway(middleware)}
    return {"name": "downstream", "options": _options(middleware)}


def _http(http: Http) -> dict[str, object]:
    debug = None
    if http.debug is not None:
        path = http.debug.prometheus
        debug = _values(
            http.debug, addr=str(http.debug.addr), prometheus_enabled=path is not None, prometheus_path=path
        )
    written = _values(
        http,
        net="tcp" if http.addr.path is None else "unix",
        prefix=None if http.prefix == "/" else http.prefix,
        headers={
            name: [HIDDEN] if _SECRET.search(name) else list(values) for name, values in http.headers.items()
        },
    )
    return _given({**written, "tls": None if http.tls is None else _tls(http.tls), "debug": debug})


def _tls(tls: ServerTLS) -> dict[str, object]:
    issued = None if tls.letsencrypt is None else _letsencrypt(tls.letsencrypt)
    clientauth = tls.clientauth if tls.clientcas else None
    return _given({**_values(tls, clientauth=clientauth), "letsencrypt": issued})


def _letsencrypt(settings: LetsEncrypt) -> dict[str, object]:
    eab = settings.eab
    return _values(
        settings,
        eab_kid=None if eab is None else eab.kid,
        eab_hmackey=None if eab is None else HIDDEN,
    )


def _gateway(gateway: Gateway) -> dict[str, object]:
    account = gateway.account
    shown = None if account is None else _account(account)
    limits = _values(gateway.limits, **dict.fromkeys(CACHE_ONLY_LIMITS))
    return _given({**_values(gateway, account=shown), "limits": limits})


def _options(downstream: Downstream) -> dict[str, object]:
    return _given(
        {
            **_values(
                downstream,
                upstreams=_upstreams(downstream.upstreams),
                fastpath="auto" if downstream.fastpath else "off",
            ),
            "signing": _values(downstream.signing),
            "limits": _values(downstream.limits),
        }
    )


def _upstreams(upstreams: tuple[Upstream, ...]) -> list[Any]:
    if any(upstream.issuer is None for upstream in upstreams):
        # Next hops of an origin that has no name here: only the plain list can say that.
        return [url for upstream in upstreams for url in upstream.origin.split()]
    return [_upstream(upstream) for upstream in upstreams]


def _upstream(upstream: Upstream) -> dict[str, object]:
    account, program = upstream.account, upstream.credential_helper
    command, lifetime = (option_of(Upstream, f"exec.{key}").kind for key in ("command", "lifetime"))
    return _values(
        upstream,
        originhost=upstream.origin,
        upstreamhosts=[] if upstream.hosts == (url_to_request(upstream.origin),) else list(upstream.hosts),
        fallbacktoorigin=True if upstream.fallback else None,
        names=sorted(upstream.names),
        hosts=sorted(upstream.served),
        username=None if account is None else account.username,
        password=None if account is None else HIDDEN,
        passwordfile=None,
        exec_command=None if program is None else command.spell(program.command),
        exec_lifetime=None
        if program is None or program.lifetime is None
        else lifetime.spell(program.lifetime),
    )


def _account(account: Account) -> dict[str, object]:
    return {**attrs.asdict(account), "password": HIDDEN}


def _given(entries: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in entries.items() if value not in (None, "", [], {})}
