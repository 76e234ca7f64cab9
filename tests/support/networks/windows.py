"""Networks that need the whole sequence at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import mlstm_block, slstm_block, stack


class RevIN(nn.Module):
    """Reversible instance normalisation (Kim et al. 2022): statistics over the whole window."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mode: str) -> Tensor:
        if mode == "norm":
            self.mean = x.mean(1, keepdim=True).detach()
            self.std = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5).detach()
            return (x - self.mean) / self.std * self.weight + self.bias
        return (x - self.bias) / (self.weight + 1e-10) * self.std + self.mean


class Forecaster(nn.Module):
    """xLSTMTime-like (Alharthi and Mahmood 2024): decomposition, RevIN, linear maps over time, a stack over them."""

    def __init__(self, window: int = 48, horizon: int = 12, channels: int = 7, dim: int = 32):
        super().__init__()
        self.revin = RevIN(channels)
        self.average = nn.AvgPool1d(9, stride=1)
        self.seasonal, self.trend = nn.Linear(window, dim), nn.Linear(window, dim)
        self.bn = nn.BatchNorm1d(channels)
        self.stack = stack(dim, [], blocks=1)
        self.out = nn.Linear(dim, horizon)

    def forward(self, x: Tensor) -> Tensor:
        x = self.revin(x, "norm").transpose(1, 2)  # (B, channels, window)
        trend = self.average(F.pad(x, (4, 4), mode="replicate"))
        h = self.bn(self.seasonal(x - trend) + self.trend(trend))
        h = self.stack(h)  # the channels are its sequence
        return self.revin(self.out(h).transpose(1, 2), "denorm")


class BothWays(nn.Module):
    """Two blocks over one axis, the second against it, as xLSTM-SENet does (Kühne et al. 2025)."""

    def __init__(self, dim: int):
        super().__init__()
        self.ahead, self.back, self.join = mlstm_block(dim), mlstm_block(dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.ahead(x), self.back(x.flip(1)).flip(1)], -1))


class SpeechEnhancer(nn.Module):
    """xLSTM-SENet-like: a complex spectrogram in, (B, 2, S, frequencies), blocks over time and over frequency."""

    def __init__(self, dim: int = 8, causal: bool = False):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(2, dim, (1, 3), padding=(0, 1)), nn.GroupNorm(1, dim), nn.PReLU(dim))
        if causal:
            self.encode[1] = nn.BatchNorm2d(dim)
        self.time = mlstm_block(dim) if causal else BothWays(dim)
        self.frequency = BothWays(dim)
        self.mask = nn.Conv2d(dim, 2, (1, 3), padding=(0, 1))

    def forward(self, spectrum: Tensor) -> Tensor:
        h = self.encode(spectrum)
        batch, dim, steps, bins = h.shape
        h = h.permute(0, 3, 2, 1).reshape(batch * bins, steps, dim)
        h = h + self.time(h)
        h = h.reshape(batch, bins, steps, dim).permute(0, 2, 1, 3).reshape(batch * steps, bins, dim)
        h = h + self.frequency(h)
        h = h.reshape(batch, steps, bins, dim).permute(0, 3, 1, 2)
        real, imaginary = self.mask(h).unbind(1)
        a, b = spectrum.unbind(1)
        return torch.stack([a * real - b * imaginary, a * imaginary + b * real], 1)


def causal_enhancer() -> nn.Module:
    return SpeechEnhancer(causal=True)


class HeartBeats(nn.Module):
    """xECG-like: patches by a strided convolution, blocks in alternating directions, a mean over all."""

    def __init__(self, leads: int = 3, dim: int = 16):
        super().__init__()
        self.patches = nn.Conv1d(leads, dim, 4, stride=4)
        self.blocks = nn.ModuleList([mlstm_block(dim), mlstm_block(dim), slstm_block(dim), slstm_block(dim)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, ecg: Tensor) -> Tensor:
        h = self.patches(ecg).transpose(1, 2)
        for index, block in enumerate(self.blocks):
            h = block(h.flip(1)).flip(1) if index % 2 else block(h)
        return self.head(self.norm(h).mean(1))


class AnomalyForecaster(nn.Module):
    """xLSTMAD-like: the encoder's last position, repeated, is what the decoder makes the next values of."""

    def __init__(self, horizon: int = 6):
        super().__init__()
        self.horizon = horizon
        self.embed, self.encoder, self.decoder = nn.Linear(5, 16), stack(16, [0], blocks=1), stack(16, [], blocks=1)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        latent = self.encoder(self.embed(x))[:, -1:]
        return self.out(self.decoder(latent.expand(-1, self.horizon, -1)))


class AttentionPool(nn.Module):
    """A classifier with a softmax over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack = nn.Linear(4, 16), stack(16, [0], blocks=1)
        self.score, self.head = nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stack(self.embed(x))
        weights = torch.softmax(self.score(h).squeeze(-1), 1)
        return self.head(torch.einsum("bs,bsd->bd", weights, h)), weights


class BidirectionalGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True, bidirectional=True)
        self.stack, self.head = stack(16, [], blocks=1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.gru(x)[0]))


class Transformer(nn.Module):
    """Self-attention without a mask on top of a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stack = nn.Linear(4, 16), stack(16, [0], blocks=1)
        self.attention, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stack(self.embed(x))
        mixed, _ = self.attention(h, h, h, need_weights=False)
        return self.head(self.norm(h + mixed))


_X = {"x": "B,S,4:float32"}
WINDOWS = [
    Network(
        "forecaster-revin",
        Forecaster,
        {"x": "B,48,7:float32"},
        streams=False,
        culprits=("revin", "no input has time"),
        time_axes=(None,),
        lengths=(48,),
    ),
    Network(
        "speech-enhancer",
        SpeechEnhancer,
        {"spectrum": "B,2,S,9:float32"},
        streams=False,
        culprits=("in encode.1",),
        time_axes=(2,),
    ),
    Network("speech-enhancer-causal", causal_enhancer, {"spectrum": "B,2,S,9:float32"}, time_axes=(2,), refusable=True),
    Network(
        "heart-beats",
        HeartBeats,
        {"ecg": "B,3,S:float32"},
        streams=False,
        culprits=("in patches", "time is resampled"),
        time_axes=(None,),
        lengths=(64, 40, 43),
    ),
    Network("anomaly-forecaster", AnomalyForecaster, {"x": "B,S,5:float32"}, refusable=True, time_axes=(None,)),
    Network("attention-pool", AttentionPool, _X, streams=False, culprits=("softmax over axis 1",), time_axes=(None, 1)),
    Network("bidirectional-gru", BidirectionalGRU, _X, streams=False, culprits=("gru",)),
    Network("attention", Transformer, _X, streams=False, culprits=("in attention",)),
]
