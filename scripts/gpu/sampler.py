"""The sampler on the device: how long a draw takes, and that it draws the host's tokens."""

from __future__ import annotations

import numpy as np
import torch

from xlstm_export.runtime.sampling import Sampler, Sampling

from .bench import Bench
from .launchers import Launchers
from .shapes import VOCABULARY

HOW = {
    "greedy": Sampling(0.0),
    "top-p": Sampling(0.8, top_p=0.95),
    "top-k and top-p": Sampling(0.8, top_k=40, top_p=0.95),
}


class DeviceDraw:
    """Draws a token for each row of logits (B, V) on their device.

    Attributes:
        tokens: (B), the last ones.
    """

    def __init__(self, launchers: Launchers, batch: int, vocabulary: int, sampling: Sampling, device: str = "cuda"):
        self._launchers, self._sampling, self._sizes = launchers, sampling, (batch, vocabulary)
        uniforms = np.random.RandomState(sampling.seed).random_sample(batch)
        self._uniforms = torch.from_numpy(uniforms).to(device)
        size = launchers.functions.xlstm_sample_scratch_size(batch, vocabulary)
        self._scratch = torch.empty(size, dtype=torch.uint8, device=device)
        self.tokens = torch.full((batch,), -1, dtype=torch.int64, device=device)

    def __call__(self, logits: torch.Tensor) -> None:
        if logits.shape != self._sizes or logits.dtype != torch.float32 or not logits.is_contiguous():
            raise ValueError(f"logits {tuple(logits.shape)} {logits.dtype} for {self._sizes} float32")
        addresses = [tensor.data_ptr() for tensor in (logits, self._uniforms, self.tokens, self._scratch)]
        numbers = (*self._sizes, self._sampling.temperature, self._sampling.top_k, self._sampling.top_p)
        self._launchers.launch("xlstm_launch_sample", *addresses, *numbers)()

    def of_host(self, logits: torch.Tensor) -> list[int]:
        """The tokens that the host draws from the same random numbers."""
        sampler = Sampler(self._sampling)
        return [sampler(row) for row in logits.cpu().numpy()]


def sample(folder: str, how: str, batch: int) -> dict:
    """Seconds with logits in the cache, where the head's product has just left them."""
    bench = Bench.of(folder)
    logits = 3 * torch.randn(batch, VOCABULARY, device="cuda")
    draw = DeviceDraw(bench.launchers, batch, VOCABULARY, HOW[how])
    seconds = bench.time([lambda: draw(logits)])
    if draw.tokens.tolist() != draw.of_host(logits):
        raise RuntimeError("the device drew other tokens than the host")
    return {"warm": seconds}
