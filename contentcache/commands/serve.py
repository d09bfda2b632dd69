"""``contentcache serve``: the daemon, in the foreground."""

from __future__ import annotations

import click

from contentcache.commands.configuration import configuration_argument, load_configuration
from contentcache.commands.output import NOT_DONE, fail


@click.command()
@configuration_argument
@click.option("--user", metavar="NAME[:GROUP]", help="Run as this account once the addresses are bound.")
@click.option("--logfile", metavar="FILE", help="Write the log there; SIGUSR1 begins a new file.")
def serve(file: str | None, user: str | None, logfile: str | None) -> None:
    """
    Run the daemon in the foreground.

    It runs with a configuration FILE until it is told to stop, and logs to standard output. SIGTERM and
    SIGINT stop it, after transfers have had http.draintimeout to finish; SIGHUP reloads the configuration.
    It writes no pid file, and nothing into its working directory. Without FILE the one that
    REGISTRY_CONFIGURATION_PATH names is read, or /etc/contentcache/config.yml.
    """
    from contentcache.app.accounts import AccountError, RunAccount  # noqa: PLC0415  # --help needs none of it

    try:
        account = None if user is None else RunAccount.parse(user)
    except AccountError as error:
        raise click.BadParameter(str(error), param_hint="--user") from None
    if account is not None:
        try:
            account.check()  # before anything is bound
        except AccountError as error:
            fail(f"contentcache: {error}")
    _path, loaded = load_configuration(file)
    from contentcache.app.tap import run_in_foreground  # noqa: PLC0415

    try:
        run_in_foreground(loaded, account=account, log_file=logfile)
    except AccountError as error:
        fail(f"contentcache: {error}", NOT_DONE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"contentcache: {where}{error.strerror or error}", NOT_DONE)
