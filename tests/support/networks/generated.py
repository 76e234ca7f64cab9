"""Networks with an operator planted somewhere: one that mixes time, or its twin, which mixes features of a position."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import mlstm_block, slstm_block, stack

DIM = 16
LONGEST = 64


class Along(nn.Module):
    """A function of h (B, S, D) and an axis, along time (1) or features (2)."""

    def __init__(self, function: Callable[[Tensor, int], Tensor], axis: int):
        super().__init__()
        self.function, self.axis = function, axis

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h, self.axis).expand_as(h)


class Convolution(nn.Module):
    """Centred, or padded on the left."""

    def __init__(self, left: int, right: int):
        super().__init__()
        self.pad, self.conv = (left, right), nn.Conv1d(DIM, DIM, left + right + 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.pad(h.transpose(1, 2), self.pad)).transpose(1, 2)


class Attention(nn.Module):
    """Without a mask, over time; or over groups of features within a position."""

    def __init__(self, over_time: bool):
        super().__init__()
        self.over_time = over_time
        self.attention = nn.MultiheadAttention(DIM if over_time else 4, 2, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        x = h if self.over_time else h.reshape(-1, DIM // 4, 4)
        return self.attention(x, x, x, need_weights=False)[0].reshape(h.shape)


class Normalised(nn.Module):
    """InstanceNorm or BatchNorm over channels first."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(h.transpose(1, 2)).transpose(1, 2)


class Reversible(nn.Module):
    """RevIN's two halves around a linear map, with statistics along an axis."""

    def __init__(self, axis: int):
        super().__init__()
        self.axis, self.map = axis, nn.Linear(DIM, DIM)

    def forward(self, h: Tensor) -> Tensor:
        mean, std = h.mean(self.axis, keepdim=True), h.std(self.axis, keepdim=True, unbiased=False) + 1e-3
        return self.map((h - mean) / std) * std + mean


class Weighted(nn.Module):
    """A linear map over time, cut from a larger one; or over features."""

    def __init__(self, over_time: bool):
        super().__init__()
        size = LONGEST if over_time else DIM
        self.over_time, self.weight = over_time, nn.Parameter(torch.empty(size, size))

    def forward(self, h: Tensor) -> Tensor:
        if self.over_time:
            steps = h.shape[1]
            return torch.einsum("ts,bsd->btd", self.weight[:steps, :steps], h)
        return torch.einsum("de,bse->bsd", self.weight, h)


class Spectral(nn.Module):
    """The real part of a Fourier transform along time (FNet-like); or along features, as a matrix."""

    def __init__(self, over_time: bool):
        super().__init__()
        self.over_time = over_time
        turn = 2 * math.pi * torch.outer(torch.arange(DIM), torch.arange(DIM)) / DIM
        self.register_buffer("matrix", torch.cos(turn) / DIM**0.5)

    def forward(self, h: Tensor) -> Tensor:
        return torch.fft.fft(h, dim=1, norm="ortho").real if self.over_time else h @ self.matrix


class Excitation(nn.Module):
    """Squeeze-and-excitation: by a pool over all positions; or within each."""

    def __init__(self, over_time: bool):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool1d(1) if over_time else nn.Identity()
        self.net = nn.Sequential(nn.Linear(DIM, 4), nn.ReLU(), nn.Linear(4, DIM))

    def forward(self, h: Tensor) -> Tensor:
        return torch.sigmoid(self.net(self.pool(h.transpose(1, 2)).transpose(1, 2))) * h


class Position(nn.Module):
    """Learned positions by index; or one offset for all."""

    def __init__(self, by_index: bool):
        super().__init__()
        self.table = nn.Embedding(LONGEST if by_index else 1, DIM)
        self.by_index = by_index

    def forward(self, h: Tensor) -> Tensor:
        index = torch.arange(h.shape[1]) if self.by_index else torch.zeros(1, dtype=torch.int64)
        return h + self.table(index)


class Coarse(nn.Module):
    """Pairs of positions averaged and repeated; or pairs of features."""

    def __init__(self, over_time: bool):
        super().__init__()
        self.over_time, self.pool = over_time, nn.AvgPool1d(2, ceil_mode=True)

    def forward(self, h: Tensor) -> Tensor:
        x = h.transpose(1, 2) if self.over_time else h
        x = self.pool(x).repeat_interleave(2, -1)[..., : x.shape[-1]]
        return x.transpose(1, 2) if self.over_time else x


class Gated(nn.Module):
    """A path behind a gate that starts at zero and, in this checkpoint, still is."""

    def __init__(self, axis: int):
        super().__init__()
        self.axis, self.map, self.opening = axis, nn.Linear(DIM, DIM), nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor) -> Tensor:
        return self.opening * self.map(h.mean(self.axis, keepdim=True).expand_as(h))


class Recurrent(nn.Module):
    """A GRU, in both directions or in one."""

    def __init__(self, both: bool):
        super().__init__()
        self.gru = nn.GRU(DIM, DIM // 2 if both else DIM, batch_first=True, bidirectional=both)

    def forward(self, h: Tensor) -> Tensor:
        return self.gru(h)[0]


def _mean(h: Tensor, axis: int) -> Tensor:
    return h.mean(axis, keepdim=True)


def _largest(h: Tensor, axis: int) -> Tensor:
    return h.amax(axis, keepdim=True)


def _reversed_sum(h: Tensor, axis: int) -> Tensor:
    return h.flip(axis).cumsum(axis).flip(axis) / h.shape[axis]


def _against_last(h: Tensor, axis: int) -> Tensor:
    return h - h.narrow(axis, h.shape[axis] - 1, 1)


def _roll(h: Tensor, axis: int) -> Tensor:
    return torch.roll(h, -1, axis)


def _stretch(h: Tensor, axis: int) -> Tensor:
    x = h.transpose(1, 2) if axis == 1 else h
    x = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="linear"), size=x.shape[-1], mode="linear")
    return x.transpose(1, 2) if axis == 1 else x


OPERATORS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "mean": (lambda: Along(_mean, 1), lambda: Along(_mean, 2)),
    "softmax": (lambda: Along(torch.softmax, 1), lambda: Along(torch.softmax, 2)),
    "flip": (lambda: Along(lambda h, axis: h.flip(axis), 1), lambda: Along(lambda h, axis: h.flip(axis), 2)),
    "convolution": (lambda: Convolution(1, 1), lambda: Convolution(2, 0)),
    "attention": (lambda: Attention(True), lambda: Attention(False)),
    "instance-norm": (lambda: Normalised(nn.InstanceNorm1d(DIM, affine=True)), lambda: nn.LayerNorm(DIM)),
    "max": (lambda: Along(_largest, 1), lambda: Along(_largest, 2)),
    "reversed-sum": (lambda: Along(_reversed_sum, 1), lambda: Along(_reversed_sum, 2)),
    "roll": (lambda: Along(_roll, 1), lambda: Along(_roll, 2)),
    "revin": (lambda: Reversible(1), lambda: Reversible(2)),
    "linear-over-time": (lambda: Weighted(True), lambda: Weighted(False)),
    "interpolation": (lambda: Along(_stretch, 1), lambda: Along(_stretch, 2)),
    "fourier": (lambda: Spectral(True), lambda: Spectral(False)),
    "global-pool": (lambda: Excitation(True), lambda: Excitation(False)),
    "position": (lambda: Position(True), lambda: Position(False)),
    "coarse": (lambda: Coarse(True), lambda: Coarse(False)),
    "closed-gate": (lambda: Gated(1), lambda: Gated(2)),
    "gru": (lambda: Recurrent(True), lambda: Recurrent(False)),
    "batch-statistics": (
        lambda: Normalised(nn.BatchNorm1d(DIM, track_running_stats=False)),
        lambda: Normalised(nn.BatchNorm1d(DIM)),
    ),
    "against-last": (lambda: Along(_against_last, 1), lambda: Along(_against_last, 2)),
}
"""By name: the operator that mixes time, and its twin that does not."""

PLACES = ("before", "between", "after")


@dataclass(frozen=True)
class _Plan:
    place: str
    operator: Callable[[], nn.Module]
    way: str


class Planted(nn.Module):
    """Blocks in a row, with the operator before, between or after them: added, as a gate, or in the row itself."""

    def __init__(self, plan: _Plan, seed: int):
        super().__init__()
        self.way = plan.way
        self.embed = nn.Linear(5, DIM)
        for place in PLACES:
            setattr(self, place, plan.operator() if place == plan.place else nn.Identity())
        self.place = plan.place
        self.first = [lambda: stack(DIM, [], blocks=1), lambda: slstm_block(DIM), lambda: mlstm_block(DIM)][seed % 3]()
        self.second = [lambda: mlstm_block(DIM), lambda: stack(DIM, [0], blocks=1)][seed % 2]()
        self.head = nn.Linear(DIM, 3)

    def _plant(self, place: str, h: Tensor) -> Tensor:
        if place != self.place:
            return h
        made = getattr(self, place)(h)
        return {"add": lambda: h + made, "gate": lambda: h * torch.sigmoid(made), "replace": lambda: made}[self.way]()

    def forward(self, x: Tensor) -> Tensor:
        h = self._plant("before", self.embed(x))
        h = self._plant("between", self.first(h))
        h = self._plant("after", self.second(h))
        return self.head(h)


def _close_the_gate(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, Gated):
            nn.init.zeros_(child.opening)


def generated(seed: int) -> Network:
    """Network number `seed`: below 20 with an operator that mixes time, from 20 to 39 with its causal twin.

    The network with the closed gate gives the right numbers piece by piece, since what mixes time is multiplied by
    zero. Its truth is still that it does not stream: one step of training opens the gate.
    """
    index, causal = seed % len(OPERATORS), seed >= len(OPERATORS)
    name, operators = list(OPERATORS.items())[index]
    place, way = PLACES[(seed * 7 + seed // 3) % 3], ("add", "gate", "replace")[(seed // 2) % 3]
    if name == "closed-gate":
        way = "add"
    plan = _Plan(place, operators[causal], way)
    return Network(
        f"{name}-{way}-{place}-{'causal' if causal else 'mixing'}",
        lambda: Planted(plan, seed),
        {"x": "B,S,5:float32"},
        streams=causal,
        culprits=() if causal else (f"in {place}", f"{place}.gru", "on a piece of a sequence it fails at generated.py"),
        after_random=_close_the_gate,
    )


GENERATED = [generated(seed) for seed in range(2 * len(OPERATORS))]
