"""The wheel holds libraries for one version of xlstm-export, which it asks for, and for one platform."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class PrebuiltLibraries(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_data["force_include"][os.environ["XLSTM_EXPORT_PREBUILT"]] = "xlstm_export_cuda"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ['XLSTM_EXPORT_PLATFORM']}"


class SameVersion(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"xlstm-export=={metadata['version']}"]
