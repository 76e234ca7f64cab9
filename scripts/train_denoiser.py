"""Train the example denoiser (`models/examples/denoiser`) on generated sounds.

python scripts/train_denoiser.py                 # about five minutes on one core
python scripts/train_denoiser.py --only-measure
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent.parent / "models" / "examples" / "denoiser"
sys.path.insert(0, str(HERE))
import signals  # noqa: E402
from network import build  # noqa: E402

HELD_OUT = 10**6  # the seed of the held-out sounds; training takes 0, 1, 2, ...


def decibels(clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The mean over rows of the signal-to-noise ratio, in dB."""
    return 10 * torch.log10(clean.square().sum((1, 2)) / (clean - other).square().sum((1, 2))).mean()


def train(model: nn.Module, steps: int, rows: int, frames: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    begun = time.monotonic()
    for index in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (index + 1) / 30) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * index / steps)))
        noisy, clean = (torch.from_numpy(part) for part in signals.pairs(rows, frames, seed=index))
        loss = -decibels(clean, model(noisy))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if index % 50 == 0:
            print(f"{index}  {(time.monotonic() - begun) / 60:.1f} min  {-loss.item():.2f} dB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "ckpt.pt")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--frames", type=int, default=125, help="frames of 4 ms a row")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-measure", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = build()
    if not args.only_measure:
        train(model, args.steps, args.rows, args.frames, args.lr)
        torch.save(model.state_dict(), args.out)
    model.load_state_dict(torch.load(args.out, weights_only=True))
    model.eval()
    noisy, clean = signals.pairs(64, 500, seed=HELD_OUT)
    with torch.no_grad():
        given = model(torch.from_numpy(noisy)).numpy()
    before, after = signals.snr(clean, noisy), signals.snr(clean, given)
    print(f"64 held-out sounds of 2 s: {before:.1f} dB before, {after:.1f} dB after")


if __name__ == "__main__":
    main()
