"""Checkpoints whose weights are integers already: each layout is a module, each weight keeps its integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..files.settings import Settings
from ..files.tensors import LazyTensor
from ..files.weights import Weights
from . import compressed_tensors, gptq
from .refusals import refuse

CONFIG = "quantization_config"


def read_quantised(weights: Weights, settings: Settings) -> tuple[Weights, Settings, dict[str, object] | None]:
    """The tensors as an unquantised checkpoint has them, where `quantization_config` says that they are quantised.

    Returns:
        Weights in which the integers of a module are its `weight`, in float32 and with `LazyTensor.codes`; the settings
        without what they say of it; and how the weights were quantised, for people, or None.

    Raises:
        UserError: a layout that is not read.
    """
    if not settings.values.get(CONFIG):
        return weights, settings, None
    config = settings.below(CONFIG)
    method = config.values.get("quant_method")
    read: Callable[[str], LazyTensor]
    endings: tuple[str, ...]
    if method in ("gptq", "auto-round"):
        layout, endings, mark = gptq.Layout.of(config), gptq.ENDINGS, ".qweight"
        read = lambda module: gptq.weight(weights, module, layout)  # noqa: E731
    elif method == "compressed-tensors":
        compressed_tensors.check(config)
        endings, mark = compressed_tensors.ENDINGS, ".weight_scale"
        read = lambda module: compressed_tensors.weight(weights, module)  # noqa: E731
    else:
        raise refuse(config, "quant_method", method)
    modules = [name.removesuffix(mark) for name in weights.tensors if name.endswith(mark)]
    gone = {f"{module}.{ending}" for module in modules for ending in (*endings, "weight")}
    kept = weights.renamed({name: name for name in weights.tensors if name not in gone})
    stored = {f"{module}.weight": read(module) for module in modules}
    files = {f"{module}.weight": weights.files[f"{module}{mark}"] for module in modules}
    named = {f"{module}.weight": weights.names.get(f"{module}{mark}", f"{module}{mark}") for module in modules}
    found = {tensor.codes.bits for tensor in stored.values() if tensor.codes}
    described: dict[str, object] = {"method": f"as stored ({method})", "bits": sorted(found)}
    tensors, names = {**kept.tensors, **stored}, {**kept.names, **named}
    both = replace(kept, tensors=tensors, files={**kept.files, **files}, names=names)
    return both, settings.without(CONFIG), described
