"""The account that the daemon runs as once its addresses are bound."""

from __future__ import annotations

import grp
import os
import pwd
from contextlib import suppress
from typing import Self

from attrs import frozen


class AccountError(Exception):
    """The daemon cannot run as this account. The message is a sentence for the operator."""


@frozen
class RunAccount:
    """A user and a group by their numbers; ``name`` is there where the user has one."""

    uid: int
    gid: int
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the account of ``NAME[:GROUP]``; both may be numbers.

        :raises AccountError: there is none.
        """
        user, colon, group = text.partition(":")
        entry = _entry_of(user)
        if entry is None and not user.isdecimal():
            raise AccountError(f"there is no user {user!r}")
        if colon:
            gid = _group_of(group)
        elif entry is not None:
            gid = entry.pw_gid
        else:
            raise AccountError(f"user {user} has no entry, so its group must be given: {user}:GROUP")
        if entry is None:
            return cls(int(user), gid)
        return cls(entry.pw_uid, gid, entry.pw_name)

    @property
    def is_current(self) -> bool:
        """Whether this process is this account."""
        return (os.geteuid(), os.getegid()) == (self.uid, self.gid)

    def check(self) -> None:
        """:raises AccountError: this process is neither this account nor root, so it cannot become it."""
        if os.geteuid() != 0 and not self.is_current:
            raise AccountError(f"cannot run as {self.name or self.uid}: only root can become another account")

    def switch(self) -> None:
        """
        Give up root for this account, for good.

        :raises AccountError: it is not possible.
        """
        if self.is_current:
            return
        try:
            if self.name is None:
                os.setgroups([self.gid])
            else:
                os.initgroups(self.name, self.gid)
            os.setgid(self.gid)
            os.setuid(self.uid)
        except OSError as error:
            raise AccountError(f"cannot run as {self.name or self.uid}: {error.strerror}") from error


def _entry_of(user: str) -> pwd.struct_passwd | None:
    with suppress(KeyError):
        return pwd.getpwnam(user)
    with suppress(KeyError, ValueError, OverflowError):
        return pwd.getpwuid(int(user))
    return None


def _group_of(group: str) -> int:
    with suppress(KeyError):
        return grp.getgrnam(group).gr_gid
    if group.isdecimal():
        return int(group)
    raise AccountError(f"there is no group {group!r}")
