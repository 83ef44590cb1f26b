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
SIGTERM drains: running requests get server.drain_s seconds to end.
SIGHUP reads the configuration again; if it has an error, the old one stays in use.
"""


@click.command(epilog=EXAMPLES)
@CONFIG_OPTION
@click.option("--host", help="Address to listen on. Default: server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: server.port.")
@click.option("--allow-no-key", is_flag=True, help="Accept clients of other machines without a key.")
def command(config_path: Path, host: str | None, port: int | None, allow_no_key: bool) -> None:
    """Serve on http://127.0.0.1:8080, or on the address in the configuration."""
    from msgspec.structs import replace

    from ..asgi.authentication import is_loopback
    from ..server import CannotServeError, serve
    from .banner import build_banner

    config = read_config(config_path)
    options = {"host": host, "port": port}
    given = {name: value for name, value in options.items() if value is not None}
    server = replace(config.server, **given)
    # An open gateway spends the operator's money for every caller: refuse unless it is asked for by name.
    if not is_loopback(server.host) and server.master_key is None and not allow_no_key:
        raise click.ClickException(
            f"other machines can reach {server.host} and there is no key: set server.master_key "
            "(os.environ/THALAMUS_MASTER_KEY), or pass --allow-no-key"
        )
    try:
        serve(config_path, config, given, build_banner)
    except CannotServeError as error:
        raise click.ClickException(str(error)) from None
