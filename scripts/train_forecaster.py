"""Train the demonstration forecaster of models/forecaster with upstream's own TiRex, on series made here.

    python scripts/train_forecaster.py --out models/forecaster

A model of TiRex's architecture, small enough to train in minutes on one core: three sLSTM blocks of width 64, patches
of 8 points, windows of 256. Its file is what `tirex-ts` stores: `model.ckpt` with `state_dict` and `hyper_parameters`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xlstm_export.references.tirex import Reference

PATCH, CONTEXT = 8, 256
QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
CONFIG = {
    "model_config": {
        "input_patch_size": PATCH,
        "output_patch_size": PATCH,
        "quantiles": QUANTILES,
        "input_ff_dim": 128,
        "block_kwargs": {"embedding_dim": 64, "num_heads": 4, "num_blocks": 3},
    },
    "train_ctx_len": CONTEXT,
}


def make_batch(random: np.random.Generator, rows: int) -> Tensor:
    """Seasons of several shapes and periods, trends, walks and noise: (rows, CONTEXT + PATCH)."""
    t = np.arange(CONTEXT + PATCH)
    series = np.zeros((rows, len(t)))
    for row in series:
        for _ in range(random.integers(0, 3)):
            phase = t / np.exp(random.uniform(np.log(3), np.log(80))) + random.random()
            wave = np.sin(2 * np.pi * phase)
            shape = random.integers(3)
            wave = (wave, np.exp(2 * wave) / 3, 4 * np.abs(phase % 1 - 0.5) - 1)[shape]
            row += random.gamma(1.0) * wave * (1 + random.normal() * t / CONTEXT * 0.5)
        row += random.normal() * 2 * t / CONTEXT + (random.random() < 0.2) * random.normal() * np.square(t / CONTEXT)
        if random.random() < 0.5:
            row += 0.2 * random.gamma(1.0) * np.cumsum(random.standard_normal(len(t)))
        noise, rho = random.standard_normal(len(t)), random.choice([0.0, 0.7])
        for at in range(1, len(t)):
            noise[at] += rho * noise[at - 1]
        row += 0.3 * random.gamma(1.0) * noise
    return torch.from_numpy(series).float()


def loss_of(model: torch.nn.Module, series: Tensor, random: np.random.Generator) -> Tensor:
    """Quantile loss of every next patch, in units of the window's scale."""
    window, rows = series[:, :CONTEXT].clone(), len(series)
    if random.random() < 0.5:
        window[: rows // 2, : int(random.integers(1, CONTEXT - PATCH))] = torch.nan
    if random.random() < 0.3:
        window[torch.rand(window.shape) < 0.1] = torch.nan
    _, scaler = model.tokenizer.scaler.scale(window)
    scaled = (window - scaler.loc) / scaler.scale
    truth = ((series[:, PATCH:] - scaler.loc) / scaler.scale).unfold(-1, PATCH, PATCH)
    hidden = int(random.integers(0, 5))  # patches of the end without a value, which rollouts have
    if hidden:
        scaled[:, -hidden * PATCH :] = torch.nan
    outputs = model._forward_model_tokenized(scaled.unfold(-1, PATCH, PATCH))  # (B, Q, positions, P)
    above = truth[:, None] - outputs
    levels = torch.tensor(QUANTILES)[:, None, None]
    return torch.maximum(levels * above, (levels - 1) * above).mean()


def new_model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = Reference(CONFIG).module
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.endswith("_recurrent_kernel_") or "gate.weight" in name:
                parameter.normal_(0, 0.5 * parameter.shape[1] ** -0.5)
            if name.endswith("_bias_"):  # [head, gate, unit]; gates i, f, z, o
                parameter.copy_((torch.tensor([-1.0, 2.0, 0.0, 0.0])[:, None].expand(4, 4, 16)).reshape(-1))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random, model = np.random.default_rng(args.seed), new_model(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=args.steps, pct_start=0.1)
    started, smooth = time.monotonic(), None
    for step in range(args.steps):
        loss = loss_of(model, make_batch(random, args.rows), random)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == args.steps - 1:
            print(f"step {step}: quantile loss {smooth:.4f}, {time.monotonic() - started:.0f} s", flush=True)
            args.out.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": model.state_dict(), "hyper_parameters": CONFIG}, args.out / "model.ckpt")
    facts = {"steps": args.steps, "rows": args.rows, "seed": args.seed, "loss": round(float(smooth or 0), 4)}
    (args.out / "training.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
