"""A copy of the `xlstm` package under another name, as repositories have that took it in."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import stack

NAME = "someones_models"


def vendor(folder: Path) -> None:
    """Copies the installed package to FOLDER/someones_models/xlstm_copy and makes it importable."""
    import xlstm

    if NAME not in sys.modules:
        (folder / NAME).mkdir()
        (folder / NAME / "__init__.py").write_text("")
        shutil.copytree(Path(xlstm.__file__).parent, folder / NAME / "xlstm_copy")
        sys.path.insert(0, str(folder))


class Vendored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        package = importlib.import_module(f"{NAME}.xlstm_copy")
        self.embed, self.stack = nn.Linear(4, 16), stack(16, [0], blocks=1, package=package)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.embed(x)))


VENDORED = [Network("vendored-package", Vendored, {"x": "B,S,4:float32"})]
"""To be built after `vendor`."""
