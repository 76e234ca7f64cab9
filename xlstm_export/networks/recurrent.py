"""`nn.LSTM` and `nn.GRU`, which users put around xLSTM blocks: their states are lifted, too.

A layer of them is one operator, written as ONNX's own `LSTM` or `GRU` (`exporter.onnx_graph`). Gates come in ONNX's
order here: input, output, forget, cell; update, reset, new.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ErrorKind, UserError
from ..modeling.layers import Chunk, Dtypes
from .lifted import Lifted, States, TapeHolder, lifted

_HELD = 1e4
"""A pre-activation whose sigmoid is 1, and whose negative's is 0, to the last bit."""


@torch.library.custom_op("xlstm::lstm_layer", mutates_args=())
def lstm_layer(x: Tensor, w: Tensor, r: Tensor, b: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LSTM (Hochreiter and Schmidhuber 1997, as `torch.nn.LSTM`).

    Args:
        x: (B, S, I).
        w, r, b: (4 H, I), (4 H, H), (2, 4 H): of the input, the state, and the biases of both.
        h, c: (B, H).

    Returns:
        y (B, S, H) and the next h and c.
    """
    outputs, h, c = [], h.clone(), c.clone()
    for t in range(x.shape[1]):
        i, o, f, g = (F.linear(x[:, t], w, b[0]) + F.linear(h, r, b[1])).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1), h.clone(), c


@lstm_layer.register_fake
def _(x, w, r, b, h, c):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], x.shape[1], r.shape[1]), torch.empty_like(h), torch.empty_like(c)


@torch.library.custom_op("xlstm::gru_layer", mutates_args=())
def gru_layer(x: Tensor, w: Tensor, r: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """GRU (Cho et al. 2014, as `torch.nn.GRU`).

    Args:
        x: (B, S, I).
        w, r, b: (3 H, I), (3 H, H), (2, 3 H): of the input, the state, and the biases of both.
        h: (B, H).

    Returns:
        y (B, S, H) and the next h.
    """
    outputs, h = [], h.clone()
    for t in range(x.shape[1]):
        xz, xr, xn = F.linear(x[:, t], w, b[0]).chunk(3, -1)
        hz, hr, hn = F.linear(h, r, b[1]).chunk(3, -1)
        z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs, 1), h.clone()


@gru_layer.register_fake
def _(x, w, r, b, h):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], x.shape[1], r.shape[1]), torch.empty_like(h)


class RecurrentLayers(nn.Module):
    """All layers and directions of an `nn.LSTM` or `nn.GRU`: x (N, I) to y (N, D * H).

    Padding holds the states by one more input, which is 1 there and shuts the gates. ONNX's own `sequence_lens` says
    nothing of the states of empty rows, and TensorRT-RTX cannot compile it for single steps.
    """

    def __init__(self, original: nn.LSTM | nn.GRU, dtype: torch.dtype):
        super().__init__()
        self.is_lstm = isinstance(original, nn.LSTM) or type(original).__name__ == "LSTM"
        self.directions = 2 if original.bidirectional else 1
        self.layers, self.hidden = original.num_layers, original.hidden_size
        gates = (4 if self.is_lstm else 3) * self.hidden
        for index, ending in enumerate(self._endings()):
            for name, key in (("w", "weight_ih"), ("r", "weight_hh")):
                self._keep(f"{name}{index}", self._ordered(getattr(original, f"{key}_{ending}"), dtype))
            biases = [getattr(original, f"{key}_{ending}", torch.zeros(gates)) for key in ("bias_ih", "bias_hh")]
            self._keep(f"b{index}", torch.stack([self._ordered(bias, dtype) for bias in biases]))
        names = ("h", "c") if self.is_lstm else ("h",)
        self.state_shapes = {f"l{i}.{name}": (self.hidden,) for i in range(len(self._endings())) for name in names}

    def _endings(self) -> list[str]:
        backward = ("", "_reverse")[: self.directions]
        return [f"l{layer}{ending}" for layer in range(self.layers) for ending in backward]

    def _ordered(self, gates: Tensor, dtype: torch.dtype) -> Tensor:
        """From torch's order: input, forget, cell, output; reset, update, new."""
        parts = gates.detach().to(dtype).split(self.hidden)
        return torch.cat([parts[i] for i in ((0, 3, 1, 2) if self.is_lstm else (1, 0, 2))])

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, x: Tensor, states: States, chunk: Chunk) -> tuple[Tensor, States]:
        x = x.reshape(chunk.batch, chunk.sequence, x.shape[-1]).to(self.get_parameter("w0").dtype)
        next_states: list[Tensor] = []
        for layer in range(self.layers):
            outputs = []
            for direction in range(self.directions):
                y, states_ = self._layer(self.directions * layer + direction, x, states, chunk, direction == 1)
                outputs.append(y)
                next_states += states_
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        return x.reshape(chunk.batch * chunk.sequence, x.shape[-1]), tuple(next_states)

    def _layer(self, index: int, x: Tensor, states: States, chunk: Chunk, backward: bool) -> tuple[Tensor, States]:
        w: Tensor = self.get_parameter(f"w{index}")
        r, b = self.get_parameter(f"r{index}"), self.get_parameter(f"b{index}")
        x = x.flip(1) if backward else x
        if chunk.lengths is not None:
            padding = (torch.arange(chunk.sequence) >= chunk.lengths[:, None])[..., None]
            x, w = torch.cat([x, padding.to(x.dtype)], -1), torch.cat([w, self._shut(w)], 1)
        if not self.is_lstm:
            y, h = gru_layer(x, w, r, b, states[index])
            return (y.flip(1) if backward else y), (h,)
        before, c = states[2 * index : 2 * index + 2]
        y, h, c = lstm_layer(x, w, r, b, before, c)
        if chunk.lengths is not None:  # the cell is held, but the output gate is what it is
            at = chunk.lengths.long()[:, None, None].expand(-1, 1, self.hidden)
            h = torch.gather(torch.cat([before[:, None], y], 1), 1, at)[:, 0]
        return (y.flip(1) if backward else y), (h, c)

    def _shut(self, w: Tensor) -> Tensor:
        """The column of weights (gates * H, 1) for the padding: input gate 0 and forget gate 1; update gate 1."""
        signs = (-1.0, 0.0, 1.0, 0.0) if self.is_lstm else (1.0, 0.0, 0.0)
        return torch.tensor(signs, dtype=w.dtype).repeat_interleave(self.hidden)[:, None] * _HELD


class LiftedRecurrent(Lifted):
    """`forward(x, hx)` → (y, states), as `nn.LSTM` and `nn.GRU`. In a stream a state that is passed has no effect."""

    def __init__(self, path: str, original: nn.Module, holder: TapeHolder, step: RecurrentLayers):
        super().__init__(path, original, holder, step)
        self.batch_first = original.batch_first

    @lifted
    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, object]:
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise UserError(
                ErrorKind.argument, f"{self.path} is called on something else than (batch, time, features)."
            )
        y, states = self.run(x if self.batch_first else x.transpose(0, 1), self._start(hx))
        kinds = ("h", "c") if self.module.is_lstm else ("h",)
        given = self.give(*(torch.stack([s for n, s in states.items() if n.endswith(kind)]) for kind in kinds))
        return (y if self.batch_first else y.transpose(0, 1)), given if len(given) > 1 else given[0]

    def _start(self, hx: Any) -> States | None:
        """h, or h and c, (layers * directions, B, H), in the order of the states."""
        if hx is None:
            return None
        kinds = hx if self.module.is_lstm else (hx,)
        return tuple(layer for layers in zip(*(kind.unbind(0) for kind in kinds), strict=True) for layer in layers)

    def flatten_parameters(self) -> None:
        """Nothing to do; users call it before they use a layer."""


def lift_recurrent(path: str, module: nn.Module, holder: TapeHolder, dtypes: Dtypes) -> Lifted:
    """In float32, whatever the dtype of the projections: a layer of LSTM is one operator."""
    if getattr(module, "proj_size", 0):
        raise UserError(
            ErrorKind.argument, f"{path}: an LSTM with projections (proj_size) is not supported. Use a linear layer."
        )
    return LiftedRecurrent(path, module, holder, RecurrentLayers(module, dtypes.compute))  # type: ignore[arg-type]
