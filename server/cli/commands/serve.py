"""`softmux serve`: one server of one backbone."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.launch import launch, read_settings


def serve(
    backbone: Annotated[
        str | None, typer.Option(metavar="DIR", help="A transformers model with its tokenizer.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="file:///PATH, redis://HOST:PORT or memory:// (default).")] = None,
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8000.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    num_threads: Annotated[int | None, typer.Option(help="CPU threads of a step; default: torch decides.")] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="Let others than this machine in, without keys.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve tasks from one backbone until Ctrl-C. Every option is also a setting SOFTMUX_<NAME> of the environment."""
    said = {
        "backbone": backbone,
        "store": store,
        "host": host,
        "port": port,
        "dtype": dtype,
        "device": device,
        "num_threads": num_threads,
        "allow_anonymous": allow_anonymous,
        "log_level": log_level,
    }
    launch(read_settings(said))
