"""Forms, and whether it is really our own page that sends one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from twisted.web.http import Request

from contentcache.core.errors import CacheError
from contentcache.gateway.declarations import LARGEST_BODY
from contentcache.gateway.errors import InvalidRequest, TooLarge, UnsupportedMediaType

_FORM: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 20


class ForeignForm(CacheError):
    """A form was not sent by a page of ours, or its page is too old."""

    code = "NOT_AUTHORIZED"
    status = 403


def fields(request: Request) -> Mapping[str, str]:
    """What a form was filled in with; of a field that is there twice the first one counts."""
    if (request.getHeader("Content-Type") or "").partition(";")[0].strip().lower() != _FORM:
        raise UnsupportedMediaType(f"forms come as {_FORM}")
    content: Any = request.content
    raw = content.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise TooLarge(f"a form has at most {LARGEST_BODY} bytes here")
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise InvalidRequest("this is not what a form looks like") from None
    return dict(reversed(pairs))


def check_sender(request: Request, *, secure: bool) -> None:
    """
    Browsers say which page sends a form, and a page cannot change what they say.

    ``Origin`` must be our own host; browsers that do not send it must say ``Sec-Fetch-Site: same-origin``.

    :raises ForeignForm: it is another one, or nothing is said.
    """
    site = request.getHeader("Sec-Fetch-Site")
    origin = request.getHeader("Origin")
    if site not in {None, "same-origin"} or (origin is None and site is None):
        raise ForeignForm("this form was sent from another page")
    if origin is not None and not _is_ours(origin, request.getHeader("Host") or "", secure=secure):
        raise ForeignForm("this form was sent from another site")


def _is_ours(origin: str, host: str, *, secure: bool) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return bool(host) and parts.netloc.lower() == host.lower() and (parts.scheme == "https" or not secure)
