"""A denoiser of sound that comes frame by frame: a causal convolution, two xLSTM blocks, a mask over features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
)

FRAME = 32
CONTEXT = 512  # frames that upstream's forward takes at once


class Denoiser(nn.Module):
    """Noisy frames (B, S, 32) of samples to clean ones, (B, S, 32): frame t needs no frame after t."""

    def __init__(self, dim: int = 64, features: int = 96, kernel: int = 3):
        super().__init__()
        self.kernel = kernel
        self.analyse = nn.Conv1d(FRAME, features, kernel)
        self.norm = nn.LayerNorm(features)
        self.down = nn.Linear(features, dim)
        self.stack = xLSTMBlockStack(
            xLSTMBlockStackConfig(
                mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=4, proj_factor=1.0)),
                slstm_block=sLSTMBlockConfig(
                    slstm=sLSTMLayerConfig(backend="vanilla", num_heads=4),
                    feedforward=FeedForwardConfig(proj_factor=1.0, act_fn="gelu"),
                ),
                context_length=CONTEXT,
                num_blocks=2,
                embedding_dim=dim,
                slstm_at=[0],
            )
        )
        self.mask = nn.Linear(dim, features)
        self.synthesise = nn.Linear(features, FRAME)

    def forward(self, noisy: Tensor) -> Tensor:
        frames = F.pad(noisy.transpose(1, 2), (self.kernel - 1, 0))
        features = self.analyse(frames).transpose(1, 2)
        h = self.stack(self.down(self.norm(torch.tanh(4 * features))))
        return self.synthesise(features * torch.sigmoid(self.mask(h)))


def build() -> Denoiser:
    return Denoiser()
