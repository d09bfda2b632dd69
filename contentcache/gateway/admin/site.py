"""The admin API and its pages as one resource of twisted.web."""

from __future__ import annotations

from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from contentcache.core.errors import CacheError
from contentcache.gateway.admin.answers import send_error
from contentcache.gateway.admin.api import Api
from contentcache.gateway.admin.page_frame import PageFrame
from contentcache.gateway.admin.pages import Pages
from contentcache.gateway.authentication import Authenticator
from contentcache.gateway.cache_directory import CacheDirectory
from contentcache.gateway.errors import InvalidRequest, NotAllowed, NotFound

_log = Logger()


class AdminSite(Resource):
    """Routes requests by Klein, and answers those that Klein would answer in its own form."""

    isLeaf = True

    def __init__(self, authenticator: Authenticator, directory: CacheDirectory, frame: PageFrame) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._frame = frame
        app = Klein()
        Api(authenticator, directory, frame.script_user).add_routes(app)
        Pages(frame, authenticator, directory).add_routes(app)
        handle: Any = app.handle_errors  # its types know no bound methods
        handle(MethodNotAllowed)(self._method_not_allowed)
        handle(HTTPException)(self._not_found)
        handle(Exception)(self._failed)
        self._inner: Any = app.resource()

    def render(self, request: Any) -> Any:
        """Answer a request."""
        # The routes are whole paths, however much of the path was traversed before.
        request.prepath, request.postpath = [], [*request.prepath, *request.postpath]
        try:
            b"/".join(request.postpath).decode()
        except UnicodeDecodeError:
            return send_error(request, InvalidRequest("the path is not UTF-8"))
        return self._inner.render(request)

    def _method_not_allowed(self, request: Any, failure: Failure) -> bytes:
        error: Any = failure.value
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return send_error(request, NotAllowed(f"the methods here are {allowed}", headers={"Allow": allowed}))

    def _not_found(self, request: Any, _failure: Failure) -> bytes:
        # Doubled slashes too, which werkzeug would redirect.
        if request.path.startswith(b"/api/"):
            return send_error(request, NotFound("there is nothing at this path"))
        return self._frame.page(request, "nothing", 404)

    def _failed(self, request: Any, failure: Failure) -> bytes:
        if not failure.check(CancelledError):  # that is a client that has disconnected
            _log.failure("admin request failed", failure, path=request.path.decode("latin-1"))
        return send_error(request, CacheError("this is a defect of the gateway; its log says more"))
