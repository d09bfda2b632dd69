"""What upstreams do to a cache, as functions from a good reply to a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from attrs import define, evolve, field, frozen


@frozen
class Asked:
    """A request as it came. The names of ``headers`` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(factory=dict)
    query: str = ""


@frozen
class Reply:
    """
    What is to be sent: ``body`` are the bytes of ``content`` from ``start`` on, ``length`` what the head
    claims of them (``None``: nothing).

    ``cut`` says how the body breaks off and at which of its bytes; before the head at byte -1. A ``stall``
    goes on when it is released. ``delay`` is in seconds and before the head.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    content: bytes = b""
    start: int = 0
    length: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    cut: tuple[Literal["reset", "short", "stall"], int] | None = None
    delay: float = 0.0

    def saying(self, **headers: str) -> Reply:
        """The same with more headers, ``_`` standing for ``-``."""
        return evolve(
            self, headers={**self.headers, **{name.replace("_", "-"): v for name, v in headers.items()}}
        )


def refusal(_reply: Reply, *, status: int, retry_after: str | None = None, challenge: str = "") -> Reply:
    """An error with a body in the registry's form."""
    body = json.dumps({"errors": [{"code": "DENIED", "message": f"{status} on purpose"}]}).encode()
    made = Reply(status, {"Content-Type": "application/json"}, body, length=len(body))
    if retry_after is not None:
        made = made.saying(Retry_After=retry_after)
    return made.saying(WWW_Authenticate=challenge) if challenge else made


def _whole(reply: Reply) -> Reply:
    if reply.status != 206:
        return reply
    headers = {name: value for name, value in reply.headers.items() if name != "Content-Range"}
    size = len(reply.content)
    return evolve(reply, status=200, headers=headers, body=reply.content, start=0, length=size)


def unsatisfiable(reply: Reply, *, size: int | None = None) -> Reply:
    """A 416 that says how many bytes there are."""
    total = len(reply.content) if size is None else size
    return refusal(reply, status=416).saying(Content_Range=f"bytes */{total}")


def _wrong(reply: Reply, *, at: int = 0) -> Reply:
    place = at % len(reply.content) - reply.start if reply.content else -1
    if not 0 <= place < len(reply.body):
        return reply
    body = bytearray(reply.body)
    body[place] ^= 0xFF
    return evolve(reply, body=bytes(body))


def _resized(reply: Reply, *, by: int) -> Reply:
    content = reply.content + bytes(by) if by > 0 else reply.content[:by]
    body = content[reply.start :]
    made = evolve(reply, body=body, content=content, length=len(body))
    if reply.status != 206:
        return made
    return made.saying(Content_Range=f"bytes {reply.start}-{len(content) - 1}/{len(content)}")


def _portal(reply: Reply) -> Reply:
    page = b"<html><title>Welcome to our hotel</title>Please log in.</html>"
    return Reply(200, {"Content-Type": "text/html"}, page, page, length=len(page))


def _without(reply: Reply, *, header: str = "Docker-Content-Digest") -> Reply:
    return evolve(reply, headers={name: v for name, v in reply.headers.items() if name != header})


def _redirect(reply: Reply, *, to: str, status: int = 307) -> Reply:
    return Reply(status, {"Location": to}, length=0) if reply.status < 300 else reply


#: Every manner: what it makes of a good reply.
MANNERS: Final[Mapping[str, Callable[..., Reply]]] = {
    "reset": lambda reply, *, at=-1: evolve(reply, cut=("reset", at)),
    "short": lambda reply, *, at=0: evolve(reply, cut=("short", at)),
    "stall": lambda reply, *, at=-1: evolve(reply, cut=("stall", at)),
    "slow": lambda reply, *, seconds: evolve(reply, delay=seconds),
    "status": refusal,
    "whole": _whole,  # 200 to a range request
    "unsatisfiable": unsatisfiable,
    "wrong": _wrong,
    "resized": _resized,  # longer or shorter, and consistent about it
    "portal": _portal,
    "without": _without,
    "with": lambda reply, *, header, value: evolve(reply, headers={**reply.headers, header: value}),
    "redirect": _redirect,
    "chunked": lambda reply: evolve(reply, framing="chunked", length=None),
    "close": lambda reply: evolve(reply, framing="close", length=None),
}


@define
class Rule:
    """One manner, where it applies, how many times more, and how many requests it spares before."""

    name: str
    path: str
    method: str
    times: int | None
    parameters: Mapping[str, Any]
    skip: int = 0

    def spend_on(self, asked: Asked) -> bool:
        """Whether it applies to this request, which is counted."""
        if (
            self.times == 0
            or self.method not in {"*", asked.method}
            or not fnmatchcase(asked.path, self.path)
        ):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True
