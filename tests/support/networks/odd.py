"""Habits of users that are easy to forget."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import mlstm_block, slstm_block, stack


class WeightNorm(nn.Module):
    """Causal convolutions with weight norm, as hooks (which `deepcopy` does not like) and as parametrisations."""

    def __init__(self) -> None:
        super().__init__()
        self.hooked = nn.utils.weight_norm(nn.Conv1d(4, 16, 3))
        self.parametrised = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3, dilation=2))
        self.stack, self.head = stack(16, [0], blocks=1), nn.utils.parametrizations.weight_norm(nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.hooked(F.pad(x.transpose(1, 2), (2, 0))))
        h = F.relu(self.parametrised(F.pad(h, (4, 0))))
        return self.head(self.stack(h.transpose(1, 2)))


class CausalConv2d(nn.Module):
    """A spectrogram under convolutions that see two frames of the past and both neighbours in frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, (3, 3)), nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 6, (2, 3), stride=(1, 2), padding=(1, 1))
        self.stack, self.head = stack(24, [0], blocks=1), nn.Linear(24, 8)

    def forward(self, magnitude: Tensor) -> Tensor:
        steps = magnitude.shape[1]
        h = F.elu(self.bn(self.conv(F.pad(magnitude.unsqueeze(1), (1, 1, 2, 0)))))
        h = F.elu(self.down(h)[:, :, :steps])  # (B, 6, S, 4)
        h = h.permute(0, 2, 1, 3).flatten(2)
        return torch.sigmoid(self.head(self.stack(h)))


class Steering(NamedTuple):
    angle: Tensor
    details: dict[str, Tensor]


class NamedResults(nn.Module):
    """A named tuple with a dictionary in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.angle, self.speed = (
            nn.Linear(4, 16),
            slstm_block(16),
            nn.Linear(16, 1),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Steering:
        h = self.block(self.embed(x))
        return Steering(torch.tanh(self.angle(h)).squeeze(-1), {"speed": self.speed(h), "hidden": h})


class RunningMean(nn.Module):
    """The mean of all positions so far: a sum and a count would do as states."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = nn.Linear(4, 16), stack(16, [0], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stack(self.embed(x))
        return self.head(h.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])


class Differences(nn.Module):
    """Each position less the one before, the first less nothing: one position would do as a state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = nn.Linear(8, 16), stack(16, [], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return self.head(self.stack(self.embed(torch.cat([x, x - before], -1))))


class LearnedStart(nn.Module):
    """A GRU that starts from learned values, not from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.start = nn.GRU(4, 16, batch_first=True), nn.Parameter(torch.zeros(1, 1, 16))
        self.block, self.head = mlstm_block(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())
        return self.head(self.block(h))


class ZeroStart(nn.Module):
    """An LSTM that is given zeros as its start, as old tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.block, self.head = nn.LSTM(4, 16, 2, batch_first=True), mlstm_block(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 16).to(x)
        h, _ = self.lstm(x, (h0, torch.zeros_like(h0)))
        return self.head(self.block(h))


class SequenceToSequence(nn.Module):
    """The decoder's LSTM starts where the encoder's ended."""

    def __init__(self) -> None:
        super().__init__()
        self.block = mlstm_block(16)
        self.embed, self.encoder, self.decoder = (
            nn.Linear(4, 16),
            nn.LSTM(16, 12, batch_first=True),
            nn.LSTM(4, 12, batch_first=True),
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(self.block(self.embed(x)))
        y, _ = self.decoder(x.flip(1), state)
        return self.head(y)


class SamePadding(nn.Module):
    """`padding="same"` is centred."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.stack, self.head = (
            nn.Conv1d(4, 16, 5, padding="same"),
            stack(16, [0], blocks=1),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class MaskedMean(nn.Module):
    """A mean over the positions that a mask leaves, the mask being an input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack, self.head = nn.Linear(4, 16), stack(16, [0], blocks=1), nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, weight = self.stack(self.embed(x)), torch.sigmoid(mask).unsqueeze(-1)
        return self.head((h * weight).sum(1) / weight.sum(1))


def root_stack() -> nn.Module:
    """A stack that is the network."""
    return stack(16, [1])


_X = {"x": "B,S,4:float32"}
ODD = [
    Network("conv-weight-norm", WeightNorm, _X),
    Network("conv-two-dimensional", CausalConv2d, {"magnitude": "B,S,8:float32"}),
    Network("named-results", NamedResults, _X, time_axes=(1, 1, 1)),
    Network("stack-as-root", root_stack, {"x": "B,S,16:float32"}),
    Network("lstm-from-zeros", ZeroStart, _X),
    Network("running-mean", RunningMean, _X, refusable=True),
    Network("differences", Differences, _X, refusable=True),
    Network("learned-start", LearnedStart, _X, refusable=True),
    Network("sequence-to-sequence", SequenceToSequence, _X, streams=False, culprits=("flip over axis 1",)),
    Network("conv-same", SamePadding, _X, streams=False, culprits=("conv1d in conv",)),
    Network(
        "masked-mean",
        MaskedMean,
        {"x": "B,S,4:float32", "mask": "B,S:float32"},
        streams=False,
        culprits=("sum over axis 1",),
        time_axes=(None,),
    ),
]
