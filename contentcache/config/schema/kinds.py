"""
Kinds of values in the configuration: what each is called in the reference, how a value is written, and its
JSON Schema. How a kind is read stands in :mod:`contentcache.config.reading`: a daemon that has its values
needs no YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import field, frozen

from contentcache.core import durations, sizes

#: Shown in place of a secret.
HIDDEN: Final = "***"


@frozen
class ValueKind:
    """
    One kind of values. ``name`` is unique; ``title`` is what the reference shows; ``spell`` makes of a value
    what stands in a file; ``each`` is the kind of a list's values, ``choices`` are those of a choice.
    """

    name: str
    title: str
    schema: Mapping[str, Any] = field(eq=False)
    spell: Callable[[Any], object] = field(default=lambda value: value, eq=False)
    each: ValueKind | None = None
    choices: tuple[str, ...] = ()


def _text(name: str, title: str | None = None, spell: Callable[[Any], object] = str) -> ValueKind:
    """A text; the registry takes a bare number for one."""
    return ValueKind(name, title or name, {"type": ["string", "number"]}, spell)


def _whole(name: str, least: int) -> ValueKind:
    return ValueKind(name, "integer", {"type": "integer", "minimum": least})


def _quantity(name: str, title: str, spell: Callable[[Any], object]) -> ValueKind:
    return ValueKind(name, title, {"type": ["string", "integer"]}, spell)


def _hidden(_value: object) -> str:
    return HIDDEN


BOOLEAN: Final = ValueKind("boolean", "boolean", {"type": "boolean"})
TEXT: Final = _text("text")
SECRET: Final = _text("secret", "text", _hidden)
PATH: Final = _text("path")
USER_NAME: Final = _text("user name", "text")
QUOTABLE: Final = _text("text of a header", "text")
PROFILE: Final = _text("profile of certificates", "text")
BASE64URL: Final = _text("base64url", spell=_hidden)

DURATION: Final = _quantity("duration above 0", "duration", durations.spell)
DURATION_OR_ZERO: Final = _quantity("duration", "duration", durations.spell)
KEY_LIFETIME: Final = _quantity("lifetime of a key", "duration", durations.spell)
URL_LIFETIME: Final = _quantity("lifetime of a URL", "duration", durations.spell)
SIZE: Final = _quantity("size above 0", "size", sizes.spell)
SIZE_OR_ZERO: Final = _quantity("size", "size", sizes.spell)
COUNT: Final = _whole("whole number from 1", 1)
COUNT_OR_ZERO: Final = _whole("whole number", 0)
SHARE: Final = ValueKind("share", "share", {"type": ["number", "string"]})

ADDRESS: Final = _text("address")
URL_PATH: Final = _text("path of a URL", "path")
PREFIX: Final = _text("prefix of paths", "path")
REGISTRY_PATH: Final = _text("path of the registry", "path")
METRICS_PATH: Final = _text("path of metrics", "path")
BASE_URL: Final = _text("base URL")
ACME_URL: Final = _text("URL of an ACME directory", "URL")
URL_OR_HOST: Final = _text("URL or host")
HOST: Final = _text("host")
NETWORK: Final = _text("address or network", "address, network")
CERTIFICATE_HOST: Final = _text("host of a certificate", "host")
REDIRECT_TARGET: Final = _text("place to redirect to", "host, network or URL")
NAT64_PREFIX: Final = _text("range of IPv6 addresses", "network")
EMAIL: Final = _text("address of a mailbox", "address")

CERTIFICATES: Final = _text("file of certificates", "file")
ABSOLUTE_CERTIFICATES: Final = _text("file of certificates by its absolute path", "file")
PASSWORD_FILE: Final = _text("file of a password", "file")
SIGNING_KEYS: Final = _text("file of keys that sign URLs", "file")
TOKEN_KEYS: Final = _text("file of keys that sign tokens", "file")
PRIVATE_KEY: Final = _text("file of a private key", "file")
USERS_FILE: Final = _text("file of users", "file")
PAIRED_FILE: Final = _text("file of a certificate or its key", "file")

GLOB: Final = _text("glob")
TAG_PATTERN: Final = _text("pattern")
COMPONENT: Final = _text("path component")
ALGORITHM: Final = _text("algorithm", "name")
CIPHER_SUITE: Final = _text("cipher suite", "name")
REALM: Final = _text("realm", "URL")
PROCESSES: Final = ValueKind("number of processes", "integer, ``auto``", {"type": ["integer", "string"]})
COMMAND: Final = ValueKind(
    "command",
    "text or list",
    {"type": ["string", "array"]},
    # Which of the arguments are secrets, only the program knows.
    lambda words: [words[0], *(HIDDEN for _ in words[1:])],
)
#: What has keys of its own, which are described where they are; read and written by hand.
MAPPING: Final = ValueKind("mapping", "mapping", {"type": ["object", "string", "null"]})
LIST: Final = ValueKind("list", "list", {"type": "array"})
NETWORKS: Final = ValueKind("networks", "mapping", {"type": "object"}, dict)
FIELDS: Final = ValueKind("fields", "mapping", {"type": "object"}, dict)
HEADERS: Final = ValueKind("headers", "name to list", {"type": "object"})


def one_of(*choices: str) -> ValueKind:
    """
    One of a few texts.

    >>> one_of("auto", "off").title
    '``auto``, ``off``'
    """
    # YAML 1.1 reads a bare off as a boolean.
    accepted = [*choices, False] if "off" in choices else list(choices)
    title = ", ".join(f"``{choice}``" for choice in choices)
    return ValueKind("choice", title, {"enum": accepted}, choices=choices)


def list_of(each: ValueKind, plural: str = "") -> ValueKind:
    """
    A list of values of one kind.

    >>> list_of(GLOB).title
    'list of globs'
    """
    schema = {"type": "array", "items": dict(each.schema)}
    title = f"list of {plural or each.title + 's'}"
    return ValueKind("list", title, schema, lambda values: [each.spell(value) for value in values], each)
