"""Which modules of a network are upstream's, and what stands for each.

A module is known by the name of its class and by its own tensors, not by where its class was imported from: many
projects carry a copy of the package. A subclass that changes the calls has another name, and is left as it is; the
blocks and layers inside it are still found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.families import mlstm_large as large
from ..checkpoints.families import tirex
from ..checkpoints.families import xlstm as small
from ..checkpoints.families import xlstm_tensors as small_tensors
from ..checkpoints.families.xlstm_settings import check_settings
from ..checkpoints.files.settings import Settings
from ..checkpoints.files.tensors import LazyTensor
from ..checkpoints.files.weights import Weights
from ..errors import ErrorKind, UserError
from ..modeling.blocks import ResidualBlock, SLSTMLayer
from ..modeling.layers import Dtypes
from .cells import LiftedMLSTMCell, LiftedSLSTMCell, MLSTMCell, SLSTMCell
from .lifted import Lifted, LiftedLarge, LiftedSmall, LiftedTiRex, TapeHolder
from .recurrent import lift_recurrent
from .unrounded import is_tirex_cell

Tensors = dict[str, LazyTensor]
Lift = Callable[[str, Any, TapeHolder, Dtypes], Lifted]


def lift_modules(network: nn.Module, dtypes: Dtypes) -> tuple[nn.Module, TapeHolder, dict[str, Lifted]]:
    """Replace every module that is known, in place.

    Args:
        network: the user's, or a copy of it; when it is itself known, what is returned stands for it.
        dtypes: of the replaced modules' weights, and of everything else in them.

    Returns:
        The network, where its lifted modules find the tape of a pass, and those by their path.

    Raises:
        UserError: a module is one of upstream's variants that are not supported.
    """
    holder, lifted, done = TapeHolder(), dict[str, Lifted](), dict[int, Lifted]()

    def replace(module: nn.Module, path: str) -> nn.Module:
        if id(module) in done:
            return done[id(module)]
        if (lift := _known(module)) is not None:
            done[id(module)] = lifted[path or type(module).__name__] = lift(
                path or type(module).__name__, module, holder, dtypes
            )
            return done[id(module)]
        _read_in_one_piece(module)
        for name, child in module.named_children():
            module._modules[name] = replace(child, f"{path}.{name}" if path else name)
        return module

    return replace(network, "").eval(), holder, lifted


def _read_in_one_piece(module: nn.Module) -> None:
    """Have transformers' `xLSTMModel` not cut long sequences itself: it compares their length, which no graph can."""
    config = getattr(module, "config", None)
    if hasattr(config, "max_inference_chunksize"):
        vars(config)["max_inference_chunksize"] = math.inf  # past the configuration's own check, which wants an integer


def _known(module: nn.Module) -> Lift | None:
    """What lifts a module of this kind; None: it is not known."""
    children = {name for name, _ in module.named_children()}
    for class_names, needed, lift in _KINDS:
        if type(module).__name__ in class_names and needed <= children:
            return lift
    return None


def _small_block(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    values: dict[str, object] = {}
    if getattr(module, "ffn", None) is not None:
        config = module.ffn.config
        values = {"slstm_block": {"feedforward": {"act_fn": config.act_fn, "ff_type": config.ff_type}}}
    _check_cell(path, module.xlstm)
    tensors = {f"blocks.0.{name}": tensor for name, tensor in _tensors(module).items()}
    checkpoint = small.read(_weights(path, tensors), Settings(values, path))
    block = ResidualBlock(checkpoint.architecture.embedding_dim, checkpoint.architecture.blocks[0], dtypes)
    return LiftedSmall(path, module, holder, _loaded(block, checkpoint.tensors, "blocks.0."))


def _small_layer(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    """As a block's, whose norm is not used."""
    _check_cell(path, module)
    dim = module.config.embedding_dim
    tensors = {f"blocks.0.xlstm.{name}": tensor for name, tensor in _tensors(module).items()}
    tensors["blocks.0.xlstm_norm.weight"] = LazyTensor.of(torch.zeros(dim))
    checkpoint = small.read(_weights(path, tensors), Settings({}, path))
    block = ResidualBlock(dim, checkpoint.architecture.blocks[0], dtypes)
    layer = getattr(_loaded(block, checkpoint.tensors, "blocks.0."), block.layer_name)
    return LiftedSmall(path, module, holder, layer)


def _check_cell(path: str, layer: Any) -> None:
    """Refuse sLSTM cells whose configuration changes the equations."""
    if hasattr(layer, "slstm_cell"):
        keys = ("function", "gradient_recurrent_clipval", "backend")
        cell = {key: getattr(layer.config, key) for key in keys if hasattr(layer.config, key)}
        check_settings(Settings({"slstm_block": {"slstm": cell}}, path))


def _large_block(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    tensors = {f"backbone.blocks.0.{name}": tensor for name, tensor in _tensors(module).items()}
    block, tensors = _read_large(path, tensors, _constants(module.config), dtypes)
    return LiftedLarge(path, module, holder, _loaded(block, tensors, "blocks.0."))


def _large_layer(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    """As a block's, whose norms and feed-forward network are not used."""
    tensors = {f"backbone.blocks.0.mlstm_layer.{name}": tensor for name, tensor in _tensors(module).items()}
    dim = module.out_proj.out_features
    unused = {"norm_mlstm": (dim,), "norm_ffn": (dim,), "ffn.proj_up_gate": (1, dim), "ffn.proj_up": (1, dim)}
    if f"{_LAYER}qkv_opreact.weight" in tensors:
        unused |= {"ffn.proj_up_gate_z": (2, dim)}
    for name, shape in (unused | {"ffn.proj_down": (dim, 1)}).items():
        tensors[f"backbone.blocks.0.{name}.weight"] = LazyTensor.of(torch.zeros(shape))
        if f"{_LAYER}out_proj.bias" in tensors:
            tensors[f"backbone.blocks.0.{name}.bias"] = LazyTensor.of(torch.zeros(shape[0]))
    block, tensors = _read_large(path, tensors, _constants(module.config), dtypes)
    _loaded(block, tensors, "blocks.0.")
    return LiftedLarge(path, module, holder, block.mlstm)


_LAYER = "backbone.blocks.0.mlstm_layer."


def _read_large(
    path: str, tensors: Tensors, constants: dict[str, object], dtypes: Dtypes
) -> tuple[ResidualBlock, Tensors]:
    model = large.from_weights(_weights(path, tensors), Settings(constants, path), tied=False)
    return ResidualBlock(model.architecture.embedding_dim, model.block, dtypes), large.canonical(tensors, model)


def _constants(config: object) -> dict[str, object]:
    """What the equations of xLSTM-7B's block have beside weights: of a block's configuration, or a layer's."""
    found = {key: getattr(config, key) for key in ("norm_eps", "gate_soft_cap", "eps") if hasattr(config, key)}
    backend = getattr(config, "mlstm_backend", None)
    return found if backend is None else found | {"eps": backend.eps}


def _tirex_block(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    config = module.config
    spec = tirex.block_of(config.num_heads, module.ffn.proj_up.out_features)
    block = ResidualBlock(config.embedding_dim, spec, dtypes)
    tensors = tirex.block_tensors(_tensors(module), config.num_heads, config.head_dim)
    return LiftedTiRex(path, module, holder, _loaded(block, tensors))


def _tirex_layer(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    config = module.config
    layer = SLSTMLayer(config.embedding_dim, tirex.block_of(config.num_heads, 1), dtypes)
    tensors = tirex.layer_tensors(_tensors(module), config.num_heads, config.head_dim)
    return LiftedTiRex(path, module, holder, _loaded(layer, tensors))


def _mlstm_cell(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    tensors = _tensors(module)
    heads, width = tensors["igate.weight"].shape
    step = MLSTMCell(width // 3, heads, dtypes)
    named = {f"{gate}.{kind}": tensors[f"{gate}.{kind}"] for gate in ("igate", "fgate") for kind in ("weight", "bias")}
    named["head_norm.weight"] = small_tensors.norm_weight(tensors["outnorm.weight"])
    return LiftedMLSTMCell(path, module, holder, _loaded(step, named))


def _slstm_cell(path: str, module: Any, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    config = module.config
    if is_tirex_cell(module):
        step = SLSTMCell(config.embedding_dim, config.num_heads, tirex.FORGET_CLAMP, dtypes)
        tensors = tirex.cell_tensors(_tensors(module), config.num_heads, config.head_dim)
        return LiftedSLSTMCell(path, module, holder, _loaded(step, tensors))
    check_settings(Settings({"slstm_block": {"slstm": {"function": config.function}}}, path))
    at = {name: f"blocks.0.xlstm.slstm_cell.{name}" for name in ("_recurrent_kernel_", "_bias_")}
    weights = _weights(path, {at[name]: tensor for name, tensor in _tensors(module).items()})
    kernel, bias = (small_tensors.vanilla_layout(name, weights.tensors[name], weights) for name in at.values())
    heads, width = config.num_heads, config.hidden_size // config.num_heads
    named = {"R": kernel.reshape(heads, 4, width, width), "b": bias.reshape(4, heads, width)}
    return LiftedSLSTMCell(path, module, holder, _loaded(SLSTMCell(config.hidden_size, heads, 0.0, dtypes), named))


_SLSTM_LAYER = {"igate", "fgate", "zgate", "ogate", "slstm_cell", "group_norm"}
_KINDS: tuple[tuple[frozenset[str], set[str], Lift], ...] = (
    (frozenset({"mLSTMBlock", "sLSTMBlock", "xLSTMBlock"}), {"xlstm_norm", "xlstm"}, _small_block),
    (frozenset({"mLSTMBlock", "xLSTMBlock"}), {"norm_mlstm", "mlstm_layer", "norm_ffn", "ffn"}, _large_block),
    (frozenset({"sLSTMBlock"}), {"norm_slstm", "slstm_layer", "norm_ffn", "ffn"}, _tirex_block),
    (frozenset({"mLSTMLayer"}), {"proj_up", "conv1d", "mlstm_cell", "proj_down"}, _small_layer),
    (frozenset({"sLSTMLayer"}), {*_SLSTM_LAYER, "dropout"}, _small_layer),
    (frozenset({"sLSTMLayer"}), _SLSTM_LAYER, _tirex_layer),
    (frozenset({"mLSTMLayer", "xLSTMLayer"}), {"multihead_norm", "out_proj", "mlstm_backend"}, _large_layer),
    (frozenset({"mLSTMCell"}), {"igate", "fgate", "outnorm"}, _mlstm_cell),
    (frozenset({"sLSTMCell", "sLSTMCell_vanilla", "sLSTMCell_cuda"}), set(), _slstm_cell),
    (frozenset({"LSTM", "GRU"}), set(), lift_recurrent),
)
"""Names of classes, children that they must have, and what lifts them; larger modules come before their parts."""


def _tensors(module: nn.Module) -> Tensors:
    """Parameters, by their names in the module; buffers of these modules are masks."""
    return {name: LazyTensor.of(parameter) for name, parameter in _parameters(module)}


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.device.type == "meta":
            raise UserError(ErrorKind.argument, f"{name} has no values (device meta). Load the weights first.")
        yield name, parameter


def _weights(path: str, tensors: Mapping[str, LazyTensor]) -> Weights:
    return Weights(Path(path), tensors, dict.fromkeys(tensors, Path(path)))


def _loaded(module: nn.Module, tensors: Mapping[str, LazyTensor], prefix: str = "") -> nn.Module:
    """The module with these values, in its own dtypes; layers of a block that have none are not used."""
    for name, parameter in module.named_parameters():
        parameter.data.copy_(tensors[f"{prefix}{name}"].read())
    return module
