"""
Overrides from the environment: ``REGISTRY_HTTP_ADDR=:8080`` sets ``http.addr``.

The rules are the registry's. Variables are applied in the order of their names. A value is YAML.
Between sections the names are those of the fields in the registry's source, in capitals; in
free mappings they match keys whatever their case, and new keys are in lower case. A number is an
index of a list: the one behind the last appends, a larger one is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen

from contentcache.config.document import Dictionary, Node, Scalar, Series, UnparsableError, parse
from contentcache.config.faults import Origin, Position, Report, below
from contentcache.config.model import Debug, Http, LetsEncrypt, Log, ServerTLS
from contentcache.config.schema import kinds
from contentcache.config.schema.kinds import ValueKind
from contentcache.config.schema.options import keys_of

PREFIX: Final = "REGISTRY_"

#: Set by Kubernetes for a service that is called "registry", or by those who start the daemon.
_NOT_MEANT = re.compile(
    r"REGISTRY_(?:CONFIGURATION_PATH|SERVICE_HOST|SERVICE_PORT(?:_\w+)?"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
#: What it sets for one that is called "registry-something", each with what the value looks like then.
_NAMES_ADDRESS = re.compile(r"(?:_SERVICE_HOST|_PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_ADDR)\Z")
_NAMES_NUMBER = re.compile(r"_SERVICE_PORT(?:\Z|_)|_PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PORT\Z")
_NAMES_URL = re.compile(r"_PORT(?:_[0-9]{1,5}_(?:TCP|UDP|SCTP))?\Z")
_NAMES_PROTOCOL = re.compile(r"_PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PROTO\Z")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_URL = re.compile(r"(?:tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]{2,60}")
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_INDEX = re.compile(r"[0-9]{1,6}")


@frozen
class Leaf:
    """A single value, or a list that can only be replaced as a whole."""


@frozen
class Free:
    """Anything: what is there decides."""


@frozen
class ListOf:
    """A list of things of one shape."""

    each: Shape


@frozen
class MapOf:
    """A free mapping to things of one shape; with ``bare`` the name of an only entry may stand alone."""

    each: Shape
    bare: bool = False


@frozen
class Fields:
    """A section: the names that variables use, each with its key in the file and its shape."""

    by_name: Mapping[str, tuple[str, Shape]]


Shape = Leaf | Free | ListOf | MapOf | Fields


class _UnrecognisedError(Exception):
    """A variable names no key."""


class _IndexBeyondError(Exception):
    """A variable names an index beyond the end of a list."""


def _fields(named: Mapping[str, tuple[str, Shape]] | None = None, /, **shapes: Shape) -> Fields:
    by_name = {key.upper(): (key, shape) for key, shape in shapes.items()}
    return Fields({**by_name, **(named or {})})


_LEAF, _FREE = Leaf(), Free()
_TEXTS = ListOf(_LEAF)
_SHAPES: Final[Mapping[ValueKind, Shape]] = {kinds.FIELDS: MapOf(_FREE), kinds.HEADERS: MapOf(_TEXTS)}


def _described(model: type[Any], **others: Shape) -> Fields:
    """
    The shape of a section whose keys a model describes; ``others`` are sections in it, and keys that
    have no effect.
    """
    tree: dict[str, Shape] = dict(others)
    inner: dict[str, dict[str, Shape]] = {}
    for key, option in keys_of(model).items():
        shape = _SHAPES.get(option.kind) or (_TEXTS if option.kind.each is not None else _LEAF)
        section, dot, rest = key.partition(".")
        if dot:
            inner.setdefault(section, {})[rest] = shape
        else:
            tree[key] = shape
    return _fields(**tree, **{section: _fields(**shapes) for section, shapes in inner.items()})


#: The registry's sections. Where a field's name differs from its key, it stands in front.
ROOT: Final = _fields(
    version=_LEAF,
    loglevel=_LEAF,
    workers=_LEAF,
    log=_described(
        Log,
        hooks=ListOf(
            _fields({"MAILOPTIONS": ("options", _FREE)}, type=_LEAF, disabled=_LEAF, levels=_TEXTS),
        ),
        reportcaller=_LEAF,
    ),
    storage=MapOf(_FREE, bare=True),
    auth=MapOf(_FREE, bare=True),
    middleware=MapOf(ListOf(_fields(name=_LEAF, disabled=_LEAF, options=MapOf(_FREE)))),
    http=_described(
        Http,
        secret=_LEAF,
        relativeurls=_LEAF,
        tls=_described(ServerTLS, letsencrypt=_described(LetsEncrypt)),
        debug=_described(Debug),
        http2=_fields(disabled=_LEAF),
        h2c=_fields(enabled=_LEAF),
    ),
    proxy=_FREE,
    redis=_FREE,
    reporting=_FREE,
    catalog=_FREE,
    tags=_FREE,
    validation=_FREE,
    policy=_FREE,
    notifications=_fields({"EVENTCONFIG": ("events", _FREE)}, endpoints=_FREE),
    health=_fields(
        {"FILECHECKERS": ("file", _FREE), "HTTPCHECKERS": ("http", _FREE), "TCPCHECKERS": ("tcp", _FREE)},
        storagedriver=_FREE,
    ),
    compatibility=_fields(schema1=_fields({"TRUSTKEY": ("signingkeyfile", _LEAF)}, enabled=_LEAF)),
)


def override(root: Dictionary, environ: Mapping[str, str], report: Report) -> None:
    """
    Apply all variables to the tree of a file; ``root`` is changed.

    A variable that names no key is a warning, as it is for the registry.
    """
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _NOT_MEANT.fullmatch(variable):
            continue
        if _is_of_kubernetes(variable, environ[variable]):
            continue
        setting = _Setting(variable, environ[variable], report)
        try:
            setting.put(root, ROOT, variable.removeprefix(PREFIX).split("_"), "")
        except _UnrecognisedError:
            report.warn(
                Position("", Origin(None, variable)), "unrecognised environment variable; it is ignored"
            )
        except _IndexBeyondError as beyond:
            report.fault(
                Position(str(beyond), Origin(None, variable)), "the index is behind the end of the list"
            )


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """
    Whether Kubernetes has set a variable for a service of its namespace whose name begins with ``registry-``.

    >>> _is_of_kubernetes("REGISTRY_AUTH_PORT_5000_TCP", "tcp://10.96.12.7:5000")
    True
    >>> _is_of_kubernetes("REGISTRY_AUTH_TOKEN_SERVICE", "registry")
    False
    """
    return bool(
        (_NAMES_ADDRESS.search(variable) and _ADDRESS.fullmatch(value))
        or (_NAMES_NUMBER.search(variable) and _NUMBER.fullmatch(value))
        or (_NAMES_URL.search(variable) and _URL.fullmatch(value))
        or (_NAMES_PROTOCOL.search(variable) and value in _PROTOCOLS)
    )


@frozen
class _Setting:
    """One variable that is applied to the tree."""

    variable: str
    value: str
    report: Report

    @property
    def origin(self) -> Origin:
        return Origin(None, self.variable)

    def put(self, node: Node | None, shape: Shape, steps: list[str], path: str) -> Node:
        """What stands in the place of ``node`` when the value is set ``steps`` below it."""
        if not steps:
            return self.parsed(path)
        if isinstance(node, Scalar) and node.value is None:
            node = None
        match shape:
            case Fields():
                return self.into_fields(node, shape, steps, path)
            case MapOf():
                return self.into_map(_unfolded(node) if shape.bare else node, shape.each, steps, path)
            case ListOf():
                return self.into_list(node, shape.each, steps, path)
            case Free():
                listed = isinstance(node, Series) or (node is None and steps[0] == "0")
                return (self.into_list if listed else self.into_map)(node, shape, steps, path)
            case Leaf():
                raise _UnrecognisedError

    def into_fields(self, node: Node | None, shape: Fields, steps: list[str], path: str) -> Node:
        if steps[0] not in shape.by_name:
            raise _UnrecognisedError
        key, each = shape.by_name[steps[0]]
        return self.enter(node, key, lambda old, at: self.put(old, each, steps[1:], at), path)

    def into_map(self, node: Node | None, each: Shape, steps: list[str], path: str) -> Node:
        if not steps[0]:
            raise _UnrecognisedError
        present = node.entries if isinstance(node, Dictionary) else ()
        wanted = steps[0].lower()
        key = next((key for key in present if key.lower() == wanted), wanted)
        return self.enter(node, key, lambda old, at: self.put(old, each, steps[1:], at), path)

    def into_list(self, node: Node | None, each: Shape, steps: list[str], path: str) -> Node:
        series = Series(self.origin) if node is None else node
        if not isinstance(series, Series) or not _INDEX.fullmatch(steps[0]):
            raise _UnrecognisedError
        index = int(steps[0])
        if index > len(series.items):
            raise _IndexBeyondError(below(path, index))
        old = series.items[index] if index < len(series.items) else None
        series.items[index : index + 1] = [self.put(old, each, steps[1:], below(path, index))]
        return series

    def enter(self, node: Node | None, key: str, put: Callable[[Node | None, str], Node], path: str) -> Node:
        """Go on below ``key``, which is made where it is missing."""
        table = Dictionary(self.origin) if node is None else node
        if not isinstance(table, Dictionary):
            raise _UnrecognisedError
        old = table.entries.get(key)
        new = put(old, below(path, key))
        table.put(key, new, table.keys[key] if new is old else self.origin)
        return table

    def parsed(self, path: str) -> Node:
        try:
            node = parse(self.value, self.report, path, self.variable)
        except UnparsableError:
            # No detail: it would repeat parts of what may be a password.
            self.report.fault(Position(path, self.origin), "the value is not YAML; put it in quotes")
            node = None
        return Scalar(self.origin) if node is None else node


def _unfolded(node: Node | None) -> Node | None:
    if not isinstance(node, Scalar):
        return node
    table = Dictionary(node.origin)
    table.put(node.text, Scalar(node.origin), node.origin)
    return table
