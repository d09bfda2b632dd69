"""``contentcache reload``: have the daemon read its configuration again."""

from __future__ import annotations

from typing import Any

import click

from contentcache.commands.configuration import configuration_argument, load_configuration
from contentcache.commands.daemon_client import DaemonClient, RefusedError, UnreachableError
from contentcache.commands.output import NOT_DONE, UNREACHABLE, echo, fail, json_option, print_json


@click.command()
@configuration_argument
@json_option
def reload(file: str | None, as_json: bool) -> None:
    """
    Have the daemon of a configuration FILE read it again, as SIGHUP does, and say what came of it.

    What can change live changes, the rest is named. A faulty configuration changes nothing: then the exit
    status is 1. It is 3 where no daemon can be reached.
    """
    _path, loaded = load_configuration(file, running=True, as_json=as_json)
    try:
        result = DaemonClient.of(loaded.configuration).post("reload")
    except UnreachableError as error:
        fail(str(error), UNREACHABLE, as_json=as_json)
    except RefusedError as error:
        fail(str(error), as_json=as_json)
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
        echo("reloaded: nothing has changed")
    else:
        echo("reloaded")
