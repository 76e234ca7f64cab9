"""`xlstm-export web`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import BundleArgument, DefinitionsOption
from .terminal import out, progress


def web(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SITE", help="The folder to write the site to.")],
    title: Annotated[str | None, typer.Option(help="The title of the page. By default the bundle's name.")] = None,
    definitions: DefinitionsOption = "linear-attention",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing site.")] = False,
) -> None:
    """Write a web page that runs a bundle in the browser: text as it is generated, or a forecast as a chart."""
    from .web import write_site

    with progress() as stage:
        write_site(bundle, output, title, definitions, overwrite, stage)
    out.print(f"Wrote [bold]{output}[/bold]. Any web server can serve it:", highlight=False)
    out.print(f"  python -m http.server --bind 127.0.0.1 --directory {output}", highlight=False, soft_wrap=True)
