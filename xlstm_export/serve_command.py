"""`xlstm-export serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .options import BundleArgument, CustomOpsOption, RuntimeOption, chosen_custom_ops
from .terminal import err


def serve(
    bundle: BundleArgument,
    host: Annotated[str, typer.Option(help="The address to take requests at. 0.0.0.0 is every one of the machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to take requests at.")] = 8000,
    metrics_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port of the metrics, in Prometheus' form, at /metrics.")
    ] = 8001,
    replicas: Annotated[int, typer.Option(min=1, help="The number of processes that run the model.")] = 1,
    slots: Annotated[int, typer.Option(min=1, help="The sequences that a replica runs side by side.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="The requests that wait for a slot; more are refused.")] = 128,
    states: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder for the states of conversations. By default DIR-states."),
    ] = None,
    keep_hours: Annotated[
        float, typer.Option(min=0, help="The hours after which a state that nobody went on from is removed.")
    ] = 24,
    runtime: RuntimeOption = "onnxruntime",
    custom_ops: CustomOpsOption = None,
) -> None:
    """Serve a bundle over HTTP: OpenAI's completions, or forecasts, with continuous batching on Ray Serve."""
    from .nvidia.driver import list_gpus
    from .server.models import check_servable
    from .server.run import run
    from .server.settings import Settings

    check_servable(bundle)
    library, folder = chosen_custom_ops(custom_ops), bundle.path.resolve()
    settings = Settings(
        bundle=str(folder),
        states=str((states or folder.with_name(f"{folder.name}-states")).absolute()),
        replicas=replicas,
        slots=slots,
        queue=queue,
        keep_hours=keep_hours,
        runtime=runtime,
        custom_ops=None if library is None else str(library.resolve()),
        cpus=max(1, (os.cpu_count() or 1) // replicas),
        gpus=min(1, len(list_gpus()) / replicas),
    )
    path = "completions" if bundle.manifest.forecast is None else "forecasts"
    status = err.status("Starting")

    def ready() -> None:
        status.stop()
        err.print(f"Serving {folder.name} at http://{host}:{port}/v1/{path}; Ctrl-C ends it.", highlight=False)

    with status:
        run(settings, host, port, metrics_port, ready)
