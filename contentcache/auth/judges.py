"""The judge that a configuration asks for."""

from __future__ import annotations

from contentcache.auth.htpasswd import PasswordJudge
from contentcache.auth.interfaces import Judge
from contentcache.auth.tokens import TokenJudge
from contentcache.config.model import HtpasswdAuth, TokenAuth
from contentcache.core.ports import Clock, Run, Timer


def make_judge(
    settings: TokenAuth | HtpasswdAuth, *, run: Run, wall: Clock, timer: Timer, secret: bytes
) -> Judge:
    """
    Build the judge of the section ``auth``. Its files are read now, and from then on through ``run``.

    :param wall: seconds since the epoch.
    :param secret: at most 64 bytes that nobody else knows.
    :raises AuthFault: they cannot be used.
    """
    if isinstance(settings, HtpasswdAuth):
        return PasswordJudge(settings, run=run, timer=timer, secret=secret)
    return TokenJudge(settings, run=run, wall=wall, timer=timer, secret=secret)
