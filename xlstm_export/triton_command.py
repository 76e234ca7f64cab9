"""`xlstm-export triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import BundleArgument, CustomOpsOption, chosen_custom_ops
from .terminal import out, progress
from .triton.config import Backend


def triton(
    bundle: BundleArgument,
    repository: Annotated[
        Path, typer.Argument(metavar="REPOSITORY", help="The model repository: a folder, which may hold other models.")
    ],
    backend: Annotated[
        Backend,
        typer.Option(
            help="What runs the model in Triton: `onnxruntime`, `tensorrt` (an engine of the bundle) or `python` (this "
            "package, which reads prompts beside texts as they grow)."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="The name of the model. By default the bundle's.")] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="The most sequences at a time. Others wait for one to end.")
    ] = 64,
    custom_ops: CustomOpsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model of this name.")] = False,
) -> None:
    """Write a bundle into a model repository of NVIDIA's Triton Inference Server."""
    from .triton import write_repository

    library = chosen_custom_ops(custom_ops)
    with progress() as stage:
        written = write_repository(
            bundle,
            repository,
            backend,
            name=name,
            sequences=sequences,
            custom_ops=library,
            overwrite=overwrite,
            stage=stage,
        )
    out.print(f"Wrote [bold]{written.model}[/bold] ({backend}). A server of it:", highlight=False)
    out.print(f"  {written.command}", markup=False, highlight=False, soft_wrap=True)
