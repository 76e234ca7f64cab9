"""What `python -m build --wheel` makes: a wheel for any machine, or one with the native libraries that it is given.

`XLSTM_EXPORT_PREBUILT` names their folder, `XLSTM_EXPORT_PLATFORM` the wheel's platform (`manylinux_2_28_x86_64`); both
are set by scripts/release.py.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltLibraries(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to a wheel, below the folder that pyproject.toml names, and say which machine they need."""
        prebuilt = os.environ.get("XLSTM_EXPORT_PREBUILT")
        if prebuilt is None or version == "editable":
            return
        build_data["force_include"][prebuilt] = self.config["below"]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ['XLSTM_EXPORT_PLATFORM']}"
