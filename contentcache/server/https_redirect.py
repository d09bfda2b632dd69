"""The plain port beside the TLS one: it answers ``http-01``, and sends everybody else to ``https``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from contentcache.core.routes import split_target
from contentcache.server.channel import ServerRequest

_CHALLENGE: Final = re.compile(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})")
_PORT: Final = re.compile(r":[0-9]{0,5}\Z")
_HTTPS: Final = 443


class HttpsRedirect:
    """
    Answers for ``hosts`` only, so that it is no way to send people elsewhere.

    ``answer`` is asked for the text that proves a host by a token (RFC 8555 §8.3); ``port`` is that of
    ``https``.
    """

    def __init__(self, hosts: Collection[str], port: int, answer: Callable[[str, str], str | None]) -> None:
        self._hosts = frozenset(hosts)
        self._suffix = "" if port == _HTTPS else f":{port}"
        self._answer = answer

    def begin(self, request: ServerRequest) -> None:
        """Answer a request."""
        path, query, authority = split_target(request.uri.decode("latin-1"))
        named = request.requestHeaders.getRawHeaders(b"Host") or [b""]
        host = _PORT.sub("", (authority or named[0].decode("latin-1")).lower()).removesuffix(".")
        challenge = _CHALLENGE.fullmatch(path)
        if host not in self._hosts:
            _reply(request, 404, b"no such host here\n")
        elif challenge is not None:
            text = self._answer(host, challenge[1])
            if text is None:
                _reply(request, 404, b"no such challenge now\n")
            else:
                _reply(request, 200, text.encode("ascii"), "application/octet-stream")
        elif not path.startswith("/"):
            _reply(request, 400, b"no such path\n")
        else:
            where = f"https://{host}{self._suffix}{path}{'?' + query if query else ''}"
            request.responseHeaders.setRawHeaders(b"Location", [where.encode("latin-1")])
            _reply(request, 301, b"this registry speaks https\n")


def _reply(request: Any, status: int, body: bytes, media_type: str = "text/plain") -> None:
    request.setResponseCode(status)
    headers = request.responseHeaders
    headers.setRawHeaders(b"Content-Type", [media_type.encode("ascii")])
    headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    headers.setRawHeaders(b"Cache-Control", [b"no-store"])
    request.write(body)
    request.finish()
