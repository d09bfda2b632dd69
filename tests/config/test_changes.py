"""What a changed configuration changes at once, and what needs a restart: every key, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.changes import SECTIONS, compare
from contentcache.config.model import (
    Account,
    Address,
    Configuration,
    CredentialHelper,
    Debug,
    Downstream,
    ExternalAccount,
    Gateway,
    HtpasswdAuth,
    Http,
    LetsEncrypt,
    ServerTLS,
    TokenAuth,
    Upstream,
)
from contentcache.config.schema.options import described

ORIGIN: Final = "https://a.example"
ACME: Final = LetsEncrypt("/acme", ("a.example",))
HTTP: Final = Http(
    Address("", 5000), tls=ServerTLS("c.pem", "k.pem"), debug=Debug(Address("127.0.0.1", 5001))
)
UPSTREAM: Final = Upstream(ORIGIN, (ORIGIN,), account=Account("a", "b"), public=True)
CACHE: Final = Configuration(HTTP, Downstream((UPSTREAM,)), auth=HtpasswdAuth("realm", "/users"))
GATEWAY: Final = Configuration(
    HTTP,
    Gateway(
        "http://r.example", "https://g.example", signingkey="/k", database="/d", account=Account("a", "b")
    ),
)

#: Another value for those that cannot be made from the type.
_OTHERS: Final[dict[str, Any]] = {
    "level": "debug",
    "formatter": "json",
    "driver": "inmemory",
    "minimumtls": "tls1.3",
    "clientauth": "request-client-cert",
    "challenge": "http-01",
    "addr": Address("", 5999),
    "account": Account("a", "other"),
    "credential_helper": CredentialHelper(("program",)),
    "eab": ExternalAccount("kid", b"key"),
    "origin": "https://b.example",
}


def other(name: str, value: Any) -> Any:
    """Another value of a field."""
    if name in _OTHERS:
        return _OTHERS[name]
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case frozenset():
            return frozenset({"x"})
        case tuple():
            return (*value, "x")
        case dict():
            return {**value, "x": "y"}
        case None:
            return 7
    raise AssertionError(f"no other value of {name}: {value!r}")


def keys_of(model: type[Any]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Each field of a model with its keys, and whether it is live."""
    names = dict.fromkeys(each.field for each in described(model))
    for name in names:
        options = [each.option for each in described(model) if each.field == name]
        yield name, tuple(option.key for option in options), all(each.effect == "reload" for each in options)


class EveryKeyTests(SynchronousTestCase):
    """Each key of each section, changed alone."""

    def check(self, configuration: Configuration, path: tuple[Any, ...], section: str) -> None:
        """Each key of the value at ``path`` is named, and has its effect at once if its description says so."""
        value = _at(configuration, path)
        for name, keys, is_live in keys_of(type(value)):
            before = getattr(value, name)
            if name in {"http", "middleware", "log", "storage", "auth", "upstreams", "limits", "signing"}:
                continue  # sections of their own
            changed = _with(configuration, path, evolve(value, **{_argument(name): other(name, before)}))
            changes = compare(configuration, changed)
            named = changes.live if is_live else changes.restart
            with self.subTest(section=section, key=name):
                self.assertEqual((changes.restart if is_live else changes.live), (), name)
                self.assertTrue(named, name)
                if name != "origin":
                    self.assertTrue(all(each.startswith(section) for each in named), named)
                if name not in {"account", "origin", "addr"}:
                    self.assertEqual(named, tuple(section + key for key in keys))
                self.assertEqual(changes.configuration, changed if is_live else configuration)

    def test_cache(self) -> None:
        """A cache."""
        acme = evolve(CACHE, http=evolve(HTTP, tls=ServerTLS(letsencrypt=ACME)))
        tokens = evolve(CACHE, auth=TokenAuth("https://t.example", "service", "issuer"))
        for configuration, path in (
            (CACHE, ()),
            (CACHE, ("log",)),
            (CACHE, ("storage",)),
            (CACHE, ("auth",)),
            (tokens, ("auth",)),
            (CACHE, ("http",)),
            (CACHE, ("http", "tls")),
            (CACHE, ("http", "debug")),
            (acme, ("http", "tls", "letsencrypt")),
            (CACHE, ("middleware",)),
            (CACHE, ("middleware", "limits")),
            (CACHE, ("middleware", "signing")),
        ):
            self.check(configuration, path, SECTIONS[type(_at(configuration, path))])
        upstream = evolve(CACHE, auth=None)
        self.check(upstream, ("middleware", "upstreams", 0), f"upstreams[{ORIGIN}].")

    def test_gateway(self) -> None:
        """A gateway."""
        for path in ((), ("middleware",), ("middleware", "limits")):
            self.check(GATEWAY, path, SECTIONS[type(_at(GATEWAY, path))])


class CompareTests(SynchronousTestCase):
    """What depends on more than one key."""

    def test_nothing(self) -> None:
        """The same file again changes nothing."""
        changes = compare(CACHE, CACHE)
        self.assertEqual((changes.live, changes.restart, changes.configuration), ((), (), CACHE))

    def test_both(self) -> None:
        """Of a file that changes both kinds of keys, those that are live take effect."""
        read = evolve(
            CACHE,
            http=evolve(HTTP, addr=Address("", 1), draintimeout=3.0),
            middleware=evolve(CACHE.downstream, authttl=1.0, fastpath=False),
        )
        changes = compare(CACHE, read)
        self.assertEqual(set(changes.live), {"http.draintimeout", "authttl"})
        self.assertEqual(set(changes.restart), {"http.addr", "fastpath"})
        running = changes.configuration
        self.assertEqual((running.http.addr, running.http.draintimeout), (HTTP.addr, 3.0))
        self.assertEqual((running.downstream.authttl, running.downstream.fastpath), (1.0, True))
        self.assertEqual(set(compare(running, read).restart), {"http.addr", "fastpath"})

    def test_upstreams(self) -> None:
        """Other origins, or another order of them, need a restart; what is changed beside that is live."""
        second = evolve(UPSTREAM, origin="https://b.example", hosts=("https://b.example",))
        for upstreams in ((UPSTREAM, second), (second,)):
            read = evolve(CACHE, middleware=Downstream(upstreams, authttl=5.0))
            changes = compare(CACHE, read)
            self.assertEqual((changes.live, changes.restart), (("authttl",), ("upstreams",)))
            self.assertEqual(changes.configuration.downstream.upstreams, (UPSTREAM,))

    def test_account(self) -> None:
        """The parts of an account are named; one that comes with another way of getting it waits with that."""
        for account, keys in (
            (Account("a", "c"), ("password",)),
            (Account("c", "b"), ("username",)),
            (None, ("username", "password", "passwordfile")),
        ):
            changes = self.changed_upstream(account=account)
            self.assertEqual(changes.live, tuple(f"upstreams[{ORIGIN}].{key}" for key in keys))
        changes = self.changed_upstream(account=None, credential_helper=CredentialHelper(("x",)))
        self.assertEqual(changes.live, ())
        self.assertEqual(changes.configuration, CACHE)
        self.assertIn(f"upstreams[{ORIGIN}].exec.command", changes.restart)

    def test_secrets(self) -> None:
        """No value is named, and so no secret."""
        changes = self.changed_upstream(account=Account("a", "S3CRET"))
        self.assertNotIn("S3CRET", repr((changes.live, changes.restart)))

    def test_role(self) -> None:
        """A cache does not become a gateway, nor the other way round."""
        for old, new in ((CACHE, GATEWAY), (GATEWAY, CACHE)):
            changes = compare(old, evolve(new, auth=old.auth))
            self.assertEqual((changes.live, changes.restart), ((), ("middleware",)))
            self.assertEqual(changes.configuration, old)

    def test_other_source_of_certificates(self) -> None:
        """Certificates from files and from an ACME server are one change, which needs a restart."""
        read = evolve(CACHE, http=evolve(HTTP, tls=ServerTLS(letsencrypt=ACME)))
        changes = compare(CACHE, read)
        self.assertEqual((changes.live, changes.restart), ((), ("http.tls",)))

    def test_name_of_a_gateway(self) -> None:
        """A gateway's own URL is in tokens and pages, and changes with a restart."""
        changes = compare(GATEWAY, evolve(GATEWAY, http=evolve(HTTP, host="x.example")))
        self.assertEqual((changes.live, changes.restart), ((), ("http.host",)))

    def changed_upstream(self, **changes: Any) -> Any:
        """The comparison with another upstream."""
        middleware = Downstream((evolve(UPSTREAM, **changes),))
        return compare(CACHE, evolve(CACHE, middleware=middleware))


def _argument(name: str) -> str:
    return name.lstrip("_")


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step] if isinstance(step, int) else getattr(value, step)
    return value


def _with(value: Any, path: tuple[Any, ...], replaced: Any) -> Any:
    if not path:
        return replaced
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return (*value[:step], _with(value[step], rest, replaced), *value[step + 1 :])
    return evolve(value, **{step: _with(getattr(value, step), rest, replaced)})
