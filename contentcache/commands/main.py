"""The command ``contentcache``."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import get_completion_class

from contentcache import __version__
from contentcache.commands.alive import alive
from contentcache.commands.certificates import certificates
from contentcache.commands.check import check
from contentcache.commands.output import whole_output
from contentcache.commands.reload import reload
from contentcache.commands.serve import serve
from contentcache.commands.status import status

_NAME = "contentcache"


class _Commands(click.Group):
    """The commands; a file in place of one is what the daemon is to be started with."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run what the command line says; help is output, too."""
        with whole_output():
            return super().main(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and _is_file(args[0]):
            args = ["serve", *args]
        return super().resolve_command(ctx, args)


def _is_file(word: str) -> bool:
    """
    Whether a word is the path of a file, which need not be there.

    >>> _is_file("/config.yml"), _is_file("config.yml"), _is_file("chekc")
    (True, True, False)
    """
    return os.sep in word or word.endswith((".yml", ".yaml", ".json")) or os.path.isfile(word)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The exit status is 0 where what was asked for is done, 1 where it is not, 2 for a command line that "
    "cannot be understood, and 3 where the daemon cannot be reached.",
)
@click.version_option(__version__, prog_name=_NAME)
def main() -> None:
    """
    A pull-through cache for container images.

    With a FILE in place of a command the daemon is started, as by serve.
    """


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print what lets a SHELL complete commands and options.

    For bash: contentcache completion bash > /etc/bash_completion.d/contentcache
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"nothing is known about {shell}")
    click.echo(kind(main, {}, _NAME, "_CONTENTCACHE_COMPLETE").source())


for _command in (serve, check, status, alive, reload, certificates, completion):
    main.add_command(_command)

if __name__ == "__main__":
    main(prog_name=_NAME)
