"""`thalamus serve`: run the gateway."""

from pathlib import Path

import click

from .options import CONFIG_OPTION, read_config

EXAMPLES = """
\b
Examples:
  thalamus serve
  thalamus serve --port 9000
  THALAMUS_MASTER_KEY=$(openssl rand -hex 24) thalamus serve --host 0.0.0.0
\b
SIGTERM drains: requests under way are finished, up to server.drain_s seconds.
SIGHUP reads the configuration again; if it is at fault, the old one stays.
"""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option("--host", help="Listen on this address; server.host if left out.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port; server.port if left out.")
@click.option(
    "--allow-no-key", is_flag=True, help="Let anybody in who reaches an address beyond this machine."
)
def command(config_path: Path, host: str | None, port: int | None, allow_no_key: bool) -> None:
    """Serve on http://127.0.0.1:8080, or wherever the configuration says."""
    from msgspec.structs import replace

    from ..asgi.authentication import is_loopback
    from ..server import CannotServeError, serve
    from .banner import build_banner

    config = read_config(config_path)
    asked = {"host": host, "port": port}
    given = {name: value for name, value in asked.items() if value is not None}
    server = replace(config.server, **given)
    if not is_loopback(server.host) and server.master_key is None and not allow_no_key:
        raise click.ClickException(
            f"{server.host} can be reached from other machines and there is no key: set server.master_key "
            "(os.environ/THALAMUS_MASTER_KEY), or pass --allow-no-key"
        )
    try:
        serve(config_path, config, given, build_banner)
    except CannotServeError as error:
        raise click.ClickException(str(error)) from None
