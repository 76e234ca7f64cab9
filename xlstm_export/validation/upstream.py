"""The upstream PyTorch model, one step at a time, behind the interface of `runtime.Session`.

It is the reference of every comparison: built by the upstream packages' own classes from the user's configuration,
loaded with the user's weights as they lie in the file, in float32 on the CPU, on upstream's own PyTorch kernels.
Nothing of `xlstm_export.modeling` takes part, so an error there cannot hide.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import Checkpoint
from ..errors import ErrorKind, UserError
from ..modeling.layers import NARROW_BLOCK
from .tolerance import unit_roundoff

States = dict[str, Tensor]
"""By the bundle's names and in its layouts (`blocks.0.mlstm.C`), (N, ...) float32."""


class UpstreamModel(Protocol):
    """An upstream model as a function of inputs and states."""

    module: nn.Module

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        """Inputs (N, 1), or (N, 1, D) for a block stack → outputs (N, 1, V or D) and the next states.

        Upstream writes into the states it is given: they are used up.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """A whole sequence from zero states: inputs (N, T), or (N, T, D) → outputs (N, T, V or D)."""


class XlstmModel:
    """`xlstm.xLSTMLMModel` and `xlstm.xLSTMBlockStack`, through `.step`."""

    def __init__(self, config: Mapping[str, Any]):
        from dacite import from_dict
        from xlstm import xLSTMBlockStack, xLSTMBlockStackConfig, xLSTMLMModel, xLSTMLMModelConfig

        config = copy.deepcopy(dict(config))  # upstream writes into it
        if "vocab_size" in config:
            self.module = xLSTMLMModel(from_dict(xLSTMLMModelConfig, config))
            self._stack = self.module.xlstm_block_stack
        else:
            self.module = self._stack = xLSTMBlockStack(from_dict(xLSTMBlockStackConfig, config))
        for block in self._stack.blocks:  # it is in no checkpoint; without it, upstream makes one of the right length
            if hasattr(block.xlstm, "mlstm_cell"):
                block.xlstm.mlstm_cell.causal_mask = None

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        outputs, native = self.module.step(inputs, state=self._pack(states))
        return outputs, self._unpack(native)

    def _pack(self, states: States) -> dict[str, dict]:
        native = {}
        for index, block in enumerate(self._stack.blocks):
            if hasattr(block.xlstm, "mlstm_cell"):
                layer = f"blocks.{index}.mlstm"
                C, n, m = (states[f"{layer}.{name}"] for name in "Cnm")
                cell = {"mlstm_state": (C, n[..., None], m[..., None, None])}
            else:
                layer = f"blocks.{index}.slstm"
                cell = {"slstm_state": torch.stack([states[f"{layer}.{name}"].flatten(1) for name in "ycnm"])}
            window = states.get(f"{layer}.conv")
            # Upstream's window has one column more, the oldest, which is dead after the shift.
            conv = None if window is None else (nn.functional.pad(window, (0, 0, 1, 0)),)
            native[f"block_{index}"] = cell | {"conv_state": conv}
        return native

    def _unpack(self, native: dict[str, dict]) -> States:
        states: States = {}
        for index, block in enumerate(self._stack.blocks):
            entry = native[f"block_{index}"]
            if "mlstm_state" in entry:
                layer, (C, n, m) = f"blocks.{index}.mlstm", entry["mlstm_state"]
                states |= {f"{layer}.C": C, f"{layer}.n": n[..., 0], f"{layer}.m": m[..., 0, 0]}
            else:
                layer, heads = f"blocks.{index}.slstm", block.xlstm.config.num_heads
                for name, value in zip("ycnm", entry["slstm_state"], strict=True):
                    states[f"{layer}.{name}"] = value.reshape(len(value), heads, -1)
            if entry["conv_state"] is not None:
                states[f"{layer}.conv"] = entry["conv_state"][0][:, 1:]
        return states


class XlstmLargeModel:
    """`xlstm.xlstm_large.xLSTMLarge` in inference mode."""

    def __init__(self, config: Mapping[str, Any]):
        from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeConfig

        self.module = xLSTMLarge(xLSTMLargeConfig(**config))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)[0]

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        logits, native = self.module(inputs, _pack_large(states))
        return logits, _unpack_large(native)


class XlstmHfModel:
    """`transformers.xLSTMForCausalLM` with its cache."""

    def __init__(self, config: Mapping[str, Any]):
        from transformers.models.xlstm.configuration_xlstm import xLSTMConfig
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache, xLSTMForCausalLM

        self.module = xLSTMForCausalLM(xLSTMConfig(**config))
        self._cache = xLSTMCache(self.module.config, 0, dtype=torch.float32, device="cpu")

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs, use_cache=False).logits

    def step(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        # A cache of upstream's own has widths rounded up to 64, which its layers refuse for many models.
        self._cache.rnn_state = _pack_large(states)
        output = self.module(inputs, cache_params=self._cache, use_cache=True)
        return output.logits, _unpack_large(output.cache_params.rnn_state)


def _pack_large(states: States) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    blocks = (f"blocks.{index}.mlstm" for index in range(len(states) // 3))
    return {i: (states[f"{b}.C"], states[f"{b}.n"], states[f"{b}.m"][..., None]) for i, b in enumerate(blocks)}


def _unpack_large(native: Mapping[int, tuple[Tensor, Tensor, Tensor]]) -> States:
    states: States = {}
    for index, (C, n, m) in native.items():
        states |= {f"blocks.{index}.mlstm.C": C, f"blocks.{index}.mlstm.n": n, f"blocks.{index}.mlstm.m": m[..., 0]}
    return states


_FAMILIES = {"xlstm": XlstmModel, "xlstm-large": XlstmLargeModel, "xlstm-hf": XlstmHfModel}


def build_upstream(family: str, config: Mapping[str, Any]) -> UpstreamModel:
    """The upstream model of a configuration, with upstream's own initial weights, or none on the meta device."""
    return _FAMILIES[family](config)


def load_upstream(checkpoint: Checkpoint) -> UpstreamModel:
    """Build the upstream model of a checkpoint and load its weights, widened to float32.

    Raises:
        UserError: an upstream package is not installed, or upstream itself refuses the configuration or the weights.
    """
    try:
        with torch.device("meta"):  # the weights replace every parameter
            model = build_upstream(checkpoint.family, checkpoint.config)
    except ImportError as error:
        raise UserError(
            ErrorKind.unavailable,
            f"validate compares a bundle with the upstream PyTorch model, and cannot import it ({error}). "
            "Run: pip install 'xlstm-export[reference]'",
        ) from None
    except Exception as error:  # upstream checks by assertion, KeyError, ValueError
        message = f"the upstream model cannot be built from the configuration of {checkpoint.path}: "
        raise UserError(ErrorKind.checkpoint, message + f"{type(error).__name__}: {error}") from None
    try:
        model.module.load_state_dict({name: t.read().float() for name, t in checkpoint.upstream.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(
            ErrorKind.checkpoint, f"the upstream model refuses the weights of {checkpoint.path}: {error}"
        ) from None
    model.module.eval().requires_grad_(False)
    return model


def perturbed(model: UpstreamModel, dtype: torch.dtype, seed: int) -> UpstreamModel:
    """A copy in which each weight w is w (1 + u x), with u the unit roundoff of `dtype` and x uniform in [-1, 1].

    Only weights that a bundle of that dtype stores in it; rounding moves them by as much. It still computes in float32.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for module in model.module.modules():
        for parameter in _stored_in(dtype, module):
            noise = 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1
            parameter.data = (parameter.data * (1 + unit_roundoff(dtype) * noise)).float()
    return model


def _stored_in(dtype: torch.dtype, module: nn.Module) -> list[nn.Parameter]:
    """The parameters of one upstream module that a bundle of this dtype holds in it (see `modeling.layers`)."""
    own = list(module.parameters(recurse=False))
    if dtype == torch.float32 or isinstance(module, (nn.Linear, nn.Embedding)):
        return own
    if type(module).__name__ == "LinearHeadwiseExpand" and module.weight.shape[-1] >= NARROW_BLOCK:
        return own
    return [module._recurrent_kernel_] if hasattr(module, "_recurrent_kernel_") else []


class UpstreamSession:
    """`batch` sequences of an upstream model: the interface of `runtime.Session`.

    A row that starts from zeros is stepped apart from rows that do not: upstream's sLSTM asks of the whole batch
    at once whether it is at its first step (`torch.all(n == 0)`), and otherwise gives a fresh row the stabiliser
    max(i, log f) instead of i: the same outputs in exact arithmetic, other states. A sequence alone is the reference.
    """

    def __init__(self, model: UpstreamModel, shapes: Mapping[str, tuple[int, ...]], batch: int):
        self.batch = batch
        self._model = model
        self._states = {name: torch.zeros(batch, *shape) for name, shape in shapes.items()}
        self._fresh = torch.ones(batch, dtype=torch.bool)

    @torch.inference_mode()
    def step(self, inputs: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.ascontiguousarray(inputs))
        if self._fresh.all() or not self._fresh.any():
            outputs, self._states = self._model.step(rows, self._states)
        else:
            outputs = self._step_apart(rows)
        self._fresh[:] = False
        return outputs.numpy().copy()

    @torch.inference_mode()
    def forward(self, inputs: np.ndarray) -> np.ndarray:
        """A whole sequence from zero states, (B, T) or (B, T, D) → (B, T, V or D). The session's states stay."""
        return self._model.forward(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()

    def _step_apart(self, inputs: Tensor) -> Tensor:
        outputs = None
        for group in (self._fresh, ~self._fresh):
            part, states = self._model.step(inputs[group], {name: s[group] for name, s in self._states.items()})
            outputs = part.new_empty(self.batch, *part.shape[1:]) if outputs is None else outputs
            outputs[group] = part
            for name, state in states.items():
                self._states[name][group] = state
        return outputs

    @torch.inference_mode()
    def reset(self, row: int | None = None) -> None:
        which = slice(None) if row is None else row
        self._fresh[which] = True
        for state in self._states.values():
            state[which] = 0

    def read_states(self) -> dict[str, np.ndarray]:
        return {name: state.numpy().copy() for name, state in self._states.items()}

    def write_states(self, states: Mapping[str, np.ndarray]) -> None:
        self._states = {name: torch.from_numpy(np.array(states[name], np.float32)) for name in self._states}
        self._fresh = ~torch.stack([s.flatten(1).any(1) for s in self._states.values()]).any(0)
