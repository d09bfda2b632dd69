"""``contentcache check``: everything that is wrong with a configuration."""

from __future__ import annotations

import click

from contentcache.commands.configuration import configuration_argument, load_configuration
from contentcache.commands.output import echo, json_option, print_json


@click.command()
@configuration_argument
@click.option("--show", is_flag=True, help="Print the configuration in effect, without its passwords.")
@json_option
def check(file: str | None, show: bool, as_json: bool) -> None:
    """
    Say everything that is wrong with a configuration.

    Of a FILE without faults that is OK. Overrides in the environment (REGISTRY_...) count. Without FILE the
    one that REGISTRY_CONFIGURATION_PATH names is read, or /etc/contentcache/config.yml. The exit status is
    1 where there are faults.
    """
    path, loaded = load_configuration(file, as_json=as_json)
    # Imported here, so that other commands need not load it.
    from contentcache.config.show import as_tree, render  # noqa: PLC0415

    if as_json:
        shown = {"configuration": as_tree(loaded.configuration)} if show else {}
        print_json({"file": path, "ok": True, "warnings": list(loaded.warnings), "errors": [], **shown})
        return
    # Beside YAML the rest is a comment, so that the whole can be read as a file again.
    mark = "# " if show else ""
    for warning in loaded.warnings:
        echo(f"{mark}warning: {warning}")
    echo(f"{mark}{path}: OK")
    if show:
        click.echo(render(loaded.configuration), nl=False)
