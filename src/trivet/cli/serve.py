"""``trivet serve``: systems behind an OpenAI-compatible endpoint."""

from contextlib import ExitStack
from pathlib import Path

import click

from trivet.cli._output import console
from trivet.cli._systems import engine_options, open_system


@click.command(name="serve")
@click.argument("systems", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free port."
)
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the clients' keys.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with a key a line.")
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Answers of one system that run or wait at once.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that a request may take.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds in which requests may finish when the server stops.",
)
@click.option(
    "--body-limit",
    type=click.IntRange(min=1024),
    default=4 * 1024**2,
    show_default=True,
    help="Bytes of a request, at most.",
)
@engine_options
def command(
    systems: tuple[str, ...],
    host: str,
    port: int,
    api_key_env: str | None,
    api_key_file: Path | None,
    queue: int,
    time_limit: float,
    grace: float,
    body_limit: int,
    engine: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Serve SYSTEMS (system.yaml files or model names) to every client of OpenAI's API.

    Each is a model there, by its name. Ctrl-C or SIGTERM stops accepting and lets requests finish.

    \b
    Examples:
      trivet serve smollm2-135m-instruct
      trivet serve careful.yaml plain.yaml --port 9000
      TRIVET_KEYS=secret trivet serve careful.yaml --host 0.0.0.0 --api-key-env TRIVET_KEYS
    """
    from trivet.systems.server import (
        ServerSettings,
        address_of,
        bind,
        is_loopback,
        make_server,
        read_keys,
    )

    settings = ServerSettings(
        host=host, port=port, queue=queue, time_limit=time_limit, grace=grace, body_bytes=body_limit
    )
    keys = None
    if api_key_env is not None or api_key_file is not None:
        keys = read_keys(variable=api_key_env, path=api_key_file)
    out = console(stderr=True)
    with bind(settings) as bound, ExitStack() as stack:  # a taken port is told before weights are read
        opened = [stack.enter_context(open_system(source, engine, device, dtype)) for source in systems]

        def on_start() -> None:
            if keys is None and not is_loopback(bound):
                warning = "Warning: whoever reaches this machine can use the server; give --api-key-env NAME."
                out.print(warning, soft_wrap=True)
            names = ", ".join(system.name for system in opened)
            out.print(f"Serving {names} at {address_of(bound)}; Ctrl-C stops.", soft_wrap=True)

        make_server(opened, settings, keys, bound, on_start=on_start).run([bound])
