"""
What a changed configuration changes in a running daemon, and what needs a restart.

Each key's description says which of the two it is (:attr:`contentcache.config.schema.options.Option.effect`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs
from attrs import frozen

from contentcache.config.model import (
    Account,
    Address,
    Configuration,
    Debug,
    Downstream,
    Gateway,
    HtpasswdAuth,
    Http,
    LetsEncrypt,
    Limits,
    Log,
    ServerTLS,
    Signing,
    StorageSettings,
    TokenAuth,
    Upstream,
)
from contentcache.config.schema.options import Option, described

M = TypeVar("M")

#: The section in which the keys of each model are; those of the middleware's options have none.
SECTIONS: Final[Mapping[type[Any], str]] = {
    Configuration: "",
    Log: "log.",
    StorageSettings: "storage.",
    HtpasswdAuth: "auth.htpasswd.",
    TokenAuth: "auth.token.",
    Http: "http.",
    Debug: "http.debug.",
    ServerTLS: "http.tls.",
    LetsEncrypt: "http.tls.letsencrypt.",
    Downstream: "",
    Gateway: "",
    Limits: "limits.",
    Signing: "signing.",
}
_ACCOUNT: Final[Mapping[str, str]] = {"username": "username", "password": "password"}


@frozen
class Changes:
    """
    ``configuration`` is what a running daemon can have of a new one at once. ``live`` are the keys that changed in
    it, ``restart`` those of which only the next start will make use.
    """

    configuration: Configuration
    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def compare(running: Configuration, read: Configuration) -> Changes:
    """What is different in the configuration that was ``read`` now."""
    comparison = _Comparison(is_gateway=isinstance(running.middleware, Gateway))
    merged = comparison.merge(running, read, "")
    return Changes(merged, tuple(comparison.live), tuple(comparison.restart))


class _Comparison:
    """Collects the keys that differ."""

    def __init__(self, *, is_gateway: bool) -> None:
        self._is_gateway = is_gateway
        self.live: list[str] = []
        self.restart: list[str] = []

    def merge(self, old: M, new: M, section: str) -> M:
        """The old value with the changes of the new one that take effect at once."""
        replaced: dict[str, object] = {}
        options = _by_field(type(old))
        for field in attrs.fields(type(old)):  # type: ignore[arg-type]  # all models are attrs classes
            before, after = getattr(old, field.name), getattr(new, field.name)
            if before != after:
                replaced[field.name] = self._merge_field(
                    section, field.name, before, after, options.get(field.name, ())
                )
        return attrs.evolve(old, **replaced)  # type: ignore[misc]

    def _merge_field(
        self, section: str, name: str, before: Any, after: Any, options: tuple[Option, ...]
    ) -> object:
        if name == "upstreams":
            return self._merge_upstreams(before, after)
        if type(before) is type(after) and type(before) in SECTIONS and not _is_other_source(before, after):
            return self.merge(before, after, SECTIONS[type(before)])
        keys = [f"{section}{option.key}" for option in _differing(options, before, after)]
        if not keys and name not in _MADE_OF_OTHERS:
            keys = [f"{section}{name}"]
        is_live = bool(options) and all(option.effect == "reload" for option in options)
        is_live = is_live and not (self._is_gateway and keys == ["http.host"])
        (self.live if is_live else self.restart).extend(keys)
        return after if is_live else before

    def _merge_upstreams(
        self, before: tuple[Upstream, ...], after: tuple[Upstream, ...]
    ) -> tuple[Upstream, ...]:
        if [upstream.origin for upstream in before] != [upstream.origin for upstream in after]:
            self.restart.append("upstreams")
            return before
        return tuple(
            self._merge_upstream(old, new, f"upstreams[{old.origin}].")
            for old, new in zip(before, after, strict=True)
        )

    def _merge_upstream(self, old: Upstream, new: Upstream, section: str) -> Upstream:
        if old.account != new.account and (old.own, old.credential_helper) != (
            new.own,
            new.credential_helper,
        ):
            # It belongs to what only the next start changes.
            self.restart += [f"{section}{option.key}" for option in _by_field(Upstream)["account"]]
            new = attrs.evolve(new, account=old.account)
        return self.merge(old, new, section)


#: Fields that are made of other keys, which are named instead.
_MADE_OF_OTHERS: Final = frozenset({"own", "issuer"})


def _is_other_source(before: object, after: object) -> bool:
    """Whether certificates come from files now and from an ACME server then, or the other way round."""
    return (
        isinstance(before, ServerTLS)
        and isinstance(after, ServerTLS)
        and (before.letsencrypt is None) is not (after.letsencrypt is None)
    )


def _by_field(model: type[Any]) -> Mapping[str, tuple[Option, ...]]:
    options: dict[str, tuple[Option, ...]] = {}
    for each in described(model):
        options[each.field] = (*options.get(each.field, ()), each.option)
    return options


def _differing(options: tuple[Option, ...], before: object, after: object) -> Iterator[Option]:
    """Those options of a field that explain the difference, as far as can be told."""
    if isinstance(before, Account) and isinstance(after, Account):
        for option in options:
            name = _ACCOUNT.get(option.key)
            if name is not None and getattr(before, name) != getattr(after, name):
                yield option
        return
    if isinstance(before, Address) and isinstance(after, Address):
        is_same_kind = (before.path is None) is (after.path is None)
        yield from (option for option in options if option.key != "net" or not is_same_kind)
        return
    yield from options
