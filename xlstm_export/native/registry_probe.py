"""Loads a plugin library into the plugin registry of one TensorRT flavour and prints what it then holds, as JSON.

A script of its own, run in a process of its own: two flavours of TensorRT do not share a process, and a library that
breaks a registry must not take the caller with it. Imports nothing of the package, so that it starts fast.

    python registry_probe.py MODULE LIBRARY
"""

import importlib
import json
import sys


def probe(module: str, library: str) -> dict:
    """Version, whether the library loaded, and the creators that came with it."""
    tensorrt = importlib.import_module(module)
    registry = tensorrt.get_plugin_registry()
    before = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
    handle = registry.load_library(library)
    creators = []
    for creator in registry.all_creators:
        name, version, namespace = creator.name, creator.plugin_version, creator.plugin_namespace
        if (name, version, namespace) in before:
            continue
        found = registry.get_creator(name, version, namespace)
        fields = [] if found is None else [[f.name, str(f.type).rpartition(".")[2]] for f in found.field_names]
        creators.append(
            {"name": name, "version": version, "namespace": namespace, "found": found is not None, "fields": fields}
        )
    return {"version": tensorrt.__version__, "loaded": handle is not None, "creators": creators}


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:])))
