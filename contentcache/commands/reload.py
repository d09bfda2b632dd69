"""``contentcache reload``: have the daemon read its configuration again."""

from __future__ import annotations

from typing import Any

import click

from contentcache.commands.configuration import configuration_argument
from contentcache.commands.daemon_client import ask_daemon
from contentcache.commands.output import NOT_DONE, echo, json_option, print_json


@click.command()
@configuration_argument
@json_option
def reload(file: str | None, as_json: bool) -> None:
    """
    Have the daemon read its configuration again.

    The daemon of a configuration FILE reads it as on SIGHUP, and what came of it is said. What can change
    live changes, the rest is named. A faulty configuration changes nothing: then the exit status is 1. It
    is 3 where no daemon can be reached.
    """
    _client, result = ask_daemon(file, lambda client: client.post("reload"), as_json=as_json)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if not result["ok"]:
        raise SystemExit(NOT_DONE)


def _show(result: Any) -> None:
    for error in result["errors"]:
        echo(f"error: {error}", err=True)
    for key in result["changed"]:
        echo(f"changed: {key}")
    for key in result["restart_needed"]:
        echo(f"needs a restart: {key}")
    if not result["ok"]:
        echo("not reloaded: what was in effect stays in effect", err=True)
    elif not result["changed"] and not result["restart_needed"]:
        echo("reloaded: no key has changed; files that keys name were read again")
    else:
        echo("reloaded")
