"""A classifier of heart rhythms over a window: mLSTM blocks in both directions of time, a pool over all of it."""

import torch
from torch import Tensor, nn
from xlstm import mLSTMBlockConfig, mLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

CONTEXT = 512  # positions after the stem that upstream's forward takes at once


def _stack(dim: int) -> xLSTMBlockStack:
    return xLSTMBlockStack(
        xLSTMBlockStackConfig(
            mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=4, proj_factor=2.0)),
            context_length=CONTEXT,
            num_blocks=1,
            embedding_dim=dim,
        )
    )


class RhythmClassifier(nn.Module):
    """Signals (B, S, 2) at 125 Hz to logits (B, 5). An eighth of the positions goes through the blocks."""

    def __init__(self, leads: int = 2, dim: int = 32, classes: int = 5):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(leads, 16, 7, stride=2, padding=3),
            nn.BatchNorm1d(16),
            nn.GELU(),
            nn.Conv1d(16, dim, 5, stride=2, padding=2),
            nn.BatchNorm1d(dim),
            nn.GELU(),
            nn.Conv1d(dim, dim, 5, stride=2, padding=2),
            nn.BatchNorm1d(dim),
            nn.GELU(),
        )
        self.ahead, self.back = _stack(dim), _stack(dim)
        self.head = nn.Sequential(nn.LayerNorm(2 * dim), nn.Dropout(0.1), nn.Linear(2 * dim, classes))

    def forward(self, signal: Tensor) -> Tensor:
        x = self.stem(signal.transpose(1, 2)).transpose(1, 2)
        x = x + self.ahead(x)
        x = x + self.back(x.flip(1)).flip(1)
        return self.head(torch.cat([x.mean(1), x.amax(1)], -1))


def build() -> RhythmClassifier:
    return RhythmClassifier()
