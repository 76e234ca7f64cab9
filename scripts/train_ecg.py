"""Train the example classifier of heart rhythms (`models/examples/ecg`) on generated electrocardiograms.

python scripts/train_ecg.py                 # about three minutes on one core
python scripts/train_ecg.py --only-measure
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).parent.parent / "models" / "examples" / "ecg"
sys.path.insert(0, str(HERE))
import rhythms  # noqa: E402
from network import build  # noqa: E402

HELD_OUT = 10**6  # the seed of the held-out windows; training takes 0, 1, 2, ...


def train(model: nn.Module, steps: int, rows: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    begun = time.monotonic()
    for index in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (index + 1) / 30) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * index / steps)))
        seconds = (4.0, 6.0, 8.0)[index % 3]
        signal, kind = (torch.from_numpy(part) for part in rhythms.windows(rows, seconds, seed=index))
        loss = F.cross_entropy(model(signal), kind)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if index % 50 == 0:
            print(f"{index}  {(time.monotonic() - begun) / 60:.1f} min  loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "ckpt.pt")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-measure", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = build()
    if not args.only_measure:
        train(model, args.steps, args.rows, args.lr)
        torch.save(model.state_dict(), args.out)
    model.load_state_dict(torch.load(args.out, weights_only=True))
    model.eval()
    signal, kind = (torch.from_numpy(part) for part in rhythms.windows(500, 8.0, seed=HELD_OUT))
    with torch.no_grad():
        given = torch.cat([model(part) for part in signal.split(50)]).argmax(1)
    each = {name: f"{(given[kind == i] == i).float().mean():.2f}" for i, name in enumerate(rhythms.CLASSES)}
    print(f"500 held-out windows of 8 s: accuracy {(given == kind).float().mean():.3f}", each)


if __name__ == "__main__":
    main()
