"""The plain HTTP port beside the TLS port: answers ``http-01`` challenges, redirects everything else to HTTPS."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from contentcache.core.routes import split_target
from contentcache.server.request import ServerRequest

_CHALLENGE: Final = re.compile(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})")
_PORT: Final = re.compile(r":[0-9]{0,5}\Z")
_HTTPS: Final = 443


class HttpsRedirect:
    """
    Redirects for ``hosts`` only, so that it is not an open redirect.

    ``key_authorization(host, token)`` is the response to a challenge (RFC 8555 §8.3), ``None`` if there is none;
    ``port`` is that of HTTPS.
    """

    def __init__(
        self, hosts: Collection[str], port: int, key_authorization: Callable[[str, str], str | None]
    ) -> None:
        self._hosts = frozenset(hosts)
        self._suffix = "" if port == _HTTPS else f":{port}"
        self._key_authorization = key_authorization

    def respond(self, request: ServerRequest) -> None:
        """Respond to a request."""
        path, query, authority = split_target(request.uri.decode("latin-1"))
        named = request.requestHeaders.getRawHeaders(b"Host") or [b""]
        host = _PORT.sub("", (authority or named[0].decode("latin-1")).lower()).removesuffix(".")
        challenge = _CHALLENGE.fullmatch(path)
        if host not in self._hosts:
            _reply(request, 404, b"no such host here\n")
        elif challenge is not None:
            text = self._key_authorization(host, challenge[1])
            if text is None:
                _reply(request, 404, b"no such challenge now\n")
            else:
                _reply(request, 200, text.encode("ascii"), "application/octet-stream")
        elif not path.startswith("/"):
            _reply(request, 400, b"no such path\n")
        else:
            location = f"https://{host}{self._suffix}{path}{'?' + query if query else ''}"
            request.responseHeaders.setRawHeaders(b"Location", [location.encode("latin-1")])
            _reply(request, 301, b"this registry speaks https\n")


def _reply(request: Any, status: int, body: bytes, media_type: str = "text/plain") -> None:
    request.setResponseCode(status)
    headers = request.responseHeaders
    headers.setRawHeaders(b"Content-Type", [media_type.encode("ascii")])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    headers.setRawHeaders(b"Cache-Control", [b"no-store"])
    request.write(body)
    request.finish()
