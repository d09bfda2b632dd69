"""From a mapping of the file to a value: every described key is read by its kind."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import attrs

from contentcache.config import files, patterns, readers, urls
from contentcache.config.readers import Reader
from contentcache.config.schema import kinds
from contentcache.config.schema.kinds import ValueKind
from contentcache.config.schema.options import DescribedField, described, option_of
from contentcache.config.tables import Table

Value = TypeVar("Value")

_READERS: Final[dict[ValueKind, Reader[Any]]] = {
    kinds.ABSOLUTE_CERTIFICATES: files.absolute_certificates,
    kinds.ACME_URL: patterns.acme_url,
    kinds.ADDRESS: urls.address,
    kinds.ALGORITHM: patterns.algorithm,
    kinds.BASE64URL: patterns.base64url,
    kinds.BASE_URL: urls.base_url,
    kinds.BOOLEAN: readers.boolean,
    kinds.CERTIFICATES: files.certificates,
    kinds.CERTIFICATE_HOST: patterns.certificate_host,
    kinds.CIPHER_SUITE: patterns.cipher_suite,
    kinds.COMMAND: files.command,
    kinds.COMPONENT: patterns.component,
    kinds.COUNT: readers.integer(1),
    kinds.COUNT_OR_ZERO: readers.integer(0),
    kinds.DURATION: readers.duration(zero=False),
    kinds.DURATION_OR_ZERO: readers.duration(zero=True),
    kinds.EMAIL: patterns.email,
    kinds.GLOB: patterns.glob,
    kinds.HOST: urls.authority,
    kinds.NETWORK: urls.network,
    kinds.REDIRECT_TARGET: urls.redirect_target,
    kinds.NAT64_PREFIX: urls.nat64_prefix,
    kinds.KEY_LIFETIME: patterns.key_lifetime,
    kinds.METRICS_PATH: patterns.metrics_path,
    kinds.PASSWORD_FILE: files.password,
    kinds.PATH: readers.text,
    kinds.PREFIX: patterns.prefix,
    kinds.PRIVATE_KEY: files.signing_key,
    kinds.PROCESSES: patterns.processes,
    kinds.PROFILE: patterns.profile,
    kinds.QUOTABLE: patterns.quotable,
    kinds.REALM: urls.realm_url,
    kinds.REGISTRY_PATH: patterns.registry_path,
    kinds.SECRET: readers.secret,
    kinds.SHARE: readers.share,
    kinds.SIGNING_KEYS: files.signing_keys,
    kinds.SIZE: readers.size(zero=False),
    kinds.SIZE_OR_ZERO: readers.size(zero=True),
    kinds.TAG_PATTERN: patterns.tag_pattern,
    kinds.TEXT: readers.text,
    kinds.TOKEN_KEYS: files.token_keys,
    kinds.URL_LIFETIME: patterns.url_lifetime,
    kinds.URL_OR_HOST: urls.url_or_authority,
    kinds.URL_PATH: patterns.url_path,
    kinds.USERS_FILE: files.users,
    kinds.USER_NAME: patterns.user_name,
}


def reader_of(kind: ValueKind) -> Reader[Any]:
    """How a value of this kind is read."""
    if kind.each is not None:
        return readers.listing(reader_of(kind.each))
    if kind.choices:
        return readers.choice(kind.choices)
    return _READERS[kind]


def read_values(table: Table, model: type[Value], **given: Any) -> Value:
    """
    A ``model`` whose described fields are read from ``table``; ``given`` are those that code has read.

    Faults are in the table's report; a field whose key is wrong has its default, or an empty text.
    """
    sections: dict[str, list[DescribedField]] = {}
    for each in described(model):
        if each.by_hand or each.field in given:
            continue
        section, dot, _key = each.option.key.rpartition(".")
        if dot:
            sections.setdefault(section, []).append(each)
        else:
            given[each.field] = _read(table, each, each.option.key)
    for section, inside in sections.items():
        with table.section(section) as sub:
            for each in inside:
                given[each.field] = _read(sub, each, each.option.key.removeprefix(f"{section}."))
    return model(**given)


def read_key(table: Table, model: type[Any], key: str, default: Any = None) -> Any:
    """One described key that code reads, where it stands in ``table`` by the last part of its name."""
    kind = option_of(model, key).kind
    return table.read(key.rpartition(".")[2], reader_of(kind), default)


def _read(table: Table, each: DescribedField, key: str) -> Any:
    reader = reader_of(each.option.kind)
    if each.option.example is not None:
        return table.require(key, reader, "", each.option.example)
    default = each.value
    return table.read(key, reader, None if default is attrs.NOTHING else default)
