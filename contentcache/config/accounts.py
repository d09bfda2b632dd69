"""The cache's own account at an upstream, or the registry's behind a gateway: how its keys are read."""

from __future__ import annotations

from contentcache.config.document import Dictionary
from contentcache.config.files import command
from contentcache.config.model import Account, CredentialHelper, Upstream
from contentcache.config.reading import read_key
from contentcache.config.tables import Table

_PROGRAM = "/usr/local/bin/docker-credential-vault"


def read_account(table: Table) -> Account | None:
    """Read ``username`` with ``password`` or ``passwordfile``; ``None`` where none of them is given."""
    username = read_key(table, Upstream, "username")
    password = read_key(table, Upstream, "password")
    from_file = read_key(table, Upstream, "passwordfile")
    ways = [key for key in ("password", "passwordfile") if table.has(key)]
    if len(ways) > 1:
        table.fault("passwordfile", "is given beside password; one of them is enough")
    if ways and not table.has("username"):
        table.fault("username", f"is required where {ways[0]} is given")
    if table.has("username") and not ways:
        table.fault("username", "has no password; give password or passwordfile")
    found = password or from_file
    return Account(username, found) if username and found else None


def read_credential_helper(table: Table) -> CredentialHelper | None:
    """Read ``exec``, a credential helper that takes the place of name and password."""
    item = table.get("exec")
    if item is None:
        return None
    for key in ("username", "password", "passwordfile"):
        if table.has(key):
            table.fault(
                key, "is given beside exec, whose program tells both name and password; leave one out"
            )
    if not isinstance(item.node, Dictionary):
        # A command line may hold a secret: it is not repeated.
        item.fault(f"is not a mapping; write e.g. exec: {{command: {_PROGRAM}}}")
        return None
    with item.table() as section:
        words = section.demand("command", command, (), _PROGRAM)
        return CredentialHelper(words, read_key(section, Upstream, "exec.lifetime"))
