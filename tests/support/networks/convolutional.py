"""Stacks behind causal convolutions, in the ways in which people write them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from xlstm.components.conv import CausalConv1d, CausalConv1dConfig

from support.networks.network import Network
from support.networks.parts import stack


class LeftPadded(nn.Module):
    """Left padding by `F.pad`, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 12, 5), nn.Conv1d(12, 16, 3, groups=4)
        self.stack, self.head = stack(16, [0], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.first(F.pad(x.transpose(1, 2), (4, 0))))
        h = F.gelu(self.second(F.pad(h, (2, 0))))
        return self.head(self.stack(h.transpose(1, 2)))


class CutAtTheEnd(nn.Module):
    """`padding=k-1` on both sides, and the end cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(4, 16, 4, padding=3), nn.BatchNorm1d(16)
        self.stack, self.head = stack(16, [], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x.transpose(1, 2))[..., : x.shape[1]]
        return self.head(self.stack(F.relu(self.bn(h)).transpose(1, 2)))


class UpstreamsConvolution(nn.Module):
    """`CausalConv1d` of the `xlstm` package itself, depthwise and with mixing of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.depthwise = CausalConv1d(CausalConv1dConfig(feature_dim=16, kernel_size=4))
        self.mixing = CausalConv1d(CausalConv1dConfig(feature_dim=16, kernel_size=3, channel_mixing=True))
        self.stack, self.head = stack(16, [0], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.depthwise(self.embed(x)))
        return self.head(self.stack(h + self.mixing(h)))


class Chomp(nn.Module):
    """Cuts the end, as the networks of Bai, Kolter and Koltun 2018 do."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        pad = 2 * dilation
        self.net = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=pad, dilation=dilation),
            Chomp(pad),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(channels, channels, 3, padding=pad, dilation=dilation),
            Chomp(pad),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.net(x))


class Dilated(nn.Module):
    """TCN-like: dilated convolutions with residual connections before the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(4, 16, 1)
        self.tcn = nn.Sequential(*(TemporalBlock(16, 2**i) for i in range(3)))
        self.stack, self.head = stack(16, [0], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tcn(self.embed(x.transpose(1, 2)))
        return self.head(self.stack(h.transpose(1, 2)))


class CentredLookahead(nn.Module):
    """A convolution that sees one position ahead: causal but for that, so a window."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.stack, self.head = nn.Conv1d(4, 16, 3, padding=1), stack(16, [], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.conv(x.transpose(1, 2)).transpose(1, 2)))


CONVOLUTIONAL = [
    Network("conv-left-padded", LeftPadded, {"x": "B,S,4:float32"}),
    Network("conv-cut-at-the-end", CutAtTheEnd, {"x": "B,S,4:float32"}),
    Network("conv-of-upstream", UpstreamsConvolution, {"x": "B,S,4:float32"}),
    Network("conv-dilated", Dilated, {"x": "B,S,4:float32"}),
    Network("conv-centred", CentredLookahead, {"x": "B,S,4:float32"}, streams=False, culprits=("conv1d in conv",)),
]
