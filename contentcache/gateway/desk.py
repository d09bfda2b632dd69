"""The API and the pages as one resource, to be put before the registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from contentcache.core.errors import CacheError
from contentcache.core.ports import Clock, Run
from contentcache.gateway.accounts import Accounts, Randomness, Registry
from contentcache.gateway.answers import send_error
from contentcache.gateway.api import Api
from contentcache.gateway.choosing import Networks
from contentcache.gateway.directory import Directory
from contentcache.gateway.errors import InvalidRequest, NotAllowed, NotFound
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.pages.files import read_assets, templates
from contentcache.gateway.pages.shell import Shell
from contentcache.gateway.pages.site import Pages
from contentcache.gateway.roster import Roster
from contentcache.gateway.sessions import Sessions

_OURS: Final = re.compile(rb"/(?:api|settings|caches)(?:[/?].*)?", re.DOTALL)
_log = Logger()


@frozen
class Desk:
    """
    ``resource`` answers the paths of which :func:`is_ours` says yes; ``roster`` knows where to send a client;
    ``accounts`` knows who somebody is.
    """

    resource: Any
    roster: Roster
    accounts: Accounts


def is_ours(target: bytes) -> bool:
    """
    Whether a request's target is for the desk, and not for the registry.

    >>> is_ours(b"/api/v0/content_caches"), is_ours(b"/apis"), is_ours(b"/v2/")
    (True, False, False)
    """
    return _OURS.fullmatch(target) is not None


def make_desk(
    directory: Directory,
    liveness: Liveness,
    registry: Registry,
    *,
    run: Run,
    monotonic: Clock,
    wall: Clock,
    randomness: Randomness,
    secret: bytes,
    secure: bool,
    new_id: Callable[[], UUID],
    networks: Networks,
    admins: Collection[str] = (),
    admin_group: str | None = None,
    auth_ttl: float = 60.0,
) -> Desk:
    """
    Put it together.

    ``secret`` has 64 bytes that nobody else knows; ``secure`` says that browsers come over TLS.

    Reads the pages' files: before the reactor runs.
    """
    roster = Roster(directory, liveness, run=run, new_id=new_id, networks=networks)
    accounts = Accounts(
        registry,
        directory,
        run=run,
        monotonic=monotonic,
        wall=wall,
        secret=secret,
        admins=admins,
        admin_group=admin_group,
        ttl=auth_ttl,
        randomness=randomness,
    )
    sessions = Sessions(secret=secret, randomness=randomness)
    shell = Shell(sessions, monotonic, secure, templates(), read_assets())
    app = Klein()
    Api(accounts, roster).add_routes(app)
    Pages(shell, accounts, roster).add_routes(app)
    return Desk(_Front(app, shell), roster, accounts)


class _Front(Resource):
    """Klein behind it, and what Klein would answer in words of its own."""

    isLeaf = True

    def __init__(self, app: Klein, shell: Shell) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._shell = shell
        handle: Any = app.handle_errors  # its types know no bound methods
        handle(MethodNotAllowed)(self._not_allowed)
        handle(HTTPException)(self._not_found)
        handle(Exception)(self._failed)
        self._inner: Any = app.resource()

    def render(self, request: Any) -> Any:
        """Answer."""
        # Wherever somebody has begun to walk down the path: the routes are whole paths.
        request.prepath, request.postpath = [], [*request.prepath, *request.postpath]
        try:
            b"/".join(request.postpath).decode()
        except UnicodeDecodeError:
            return send_error(request, InvalidRequest("the path is not UTF-8"))
        return self._inner.render(request)

    def _not_allowed(self, request: Any, failure: Failure) -> bytes:
        error: Any = failure.value
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return send_error(request, NotAllowed(f"the methods here are {allowed}", headers={"Allow": allowed}))

    def _not_found(self, request: Any, _failure: Failure) -> bytes:
        # Doubled slashes too, which werkzeug would redirect.
        if request.path.startswith(b"/api/"):
            return send_error(request, NotFound("there is nothing at this path"))
        return self._shell.page(request, "nothing", 404)

    def _failed(self, request: Any, failure: Failure) -> bytes:
        if not failure.check(CancelledError):  # that is a client who has left
            _log.failure("admin request failed", failure, path=request.path.decode("latin-1"))
        return send_error(request, CacheError("this is a defect of the gateway; its log says more"))
