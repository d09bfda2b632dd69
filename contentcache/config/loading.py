"""Loads a configuration from a path and an environment, or reports every fault in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from contentcache.config.document import LARGEST_FILE, Dictionary, UnparsableError, parse
from contentcache.config.environment import override
from contentcache.config.faults import ConfigurationError, Fault, Origin, Report
from contentcache.config.http import check_separate_folders, read_http, warn_of_plain_http
from contentcache.config.middleware import read_middleware
from contentcache.config.model import Configuration, Downstream
from contentcache.config.sections import IGNORED_SECTIONS, read_auth, read_log, read_storage, read_version
from contentcache.config.tables import Table
from contentcache.config.workers import read_workers

_EMPTY: Final = "the file is empty; it needs at least version, storage, http and middleware"


@frozen
class Loaded:
    """
    A configuration without faults, and warnings for its operator, one line each. ``path`` is the absolute path of
    its file, ``None`` where it came in another way.
    """

    configuration: Configuration
    warnings: tuple[str, ...] = ()
    path: str | None = None


def load(path: str, environ: Mapping[str, str]) -> Loaded:
    """
    Read the file at ``path``, with the overrides in ``environ``.

    The files that it names (certificates, keys, passwords) are read too, and must be usable.

    :raises ConfigurationError: with every fault that there is.
    """
    report = Report()
    try:
        root = _root(_text(path), report)
    except UnparsableError as error:
        raise ConfigurationError(path, [Fault("", error.line, error.message)]) from None
    override(root, environ, report)
    configuration = _read(Table(root, "", report))
    if faults := report.faults():
        raise ConfigurationError(path, faults)
    return Loaded(configuration, report.warnings(path), os.path.abspath(path))


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UnparsableError(f"cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise UnparsableError("cannot be read: this is not a path") from None
    if len(content) > LARGEST_FILE:
        raise UnparsableError(f"larger than {LARGEST_FILE} bytes, which no configuration is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnparsableError("not text in UTF-8", content.count(b"\n", 0, error.start) + 1) from None


def _root(text: str, report: Report) -> Dictionary:
    root = parse(text, report)
    if root is None:
        raise UnparsableError(_EMPTY)
    if not isinstance(root, Dictionary):
        raise UnparsableError(
            "the file must hold a mapping of keys to values, such as version: 0.1", root.origin.line
        )
    if not root.entries and not report.faults():
        raise UnparsableError(_EMPTY)
    # A missing top-level key is a fault of the file, not of its first line.
    root.origin = Origin()
    return root


def _read(root: Table) -> Configuration:
    with root:
        read_version(root)
        log = read_log(root)
        storage = read_storage(root)
        auth = read_auth(root)
        http = read_http(root)
        check_separate_folders(root, http, storage.rootdirectory)
        middleware = read_middleware(root, http, delete=storage.delete, auth=auth)
        workers = read_workers(root, storage, middleware)
        root.ignore(IGNORED_SECTIONS)
        root.unsupported(("proxy",), "use the middleware downstream, whose option upstreams names the origin")
        own = isinstance(middleware, Downstream) and all(upstream.own for upstream in middleware.upstreams)
        warn_of_plain_http(root, http, forwarding=auth is None and not own, authenticating=auth is not None)
    return Configuration(
        http=http, middleware=middleware, log=log, storage=storage, auth=auth, workers=workers
    )
