"""Train the demonstration model: a byte-level xLSTM language model, with the upstream `xlstm` package.

    scripts/fetch_kjv.sh kjv.txt
    python scripts/train_demo.py kjv.txt --out models/kjv --minutes 90

Writes OUT/ckpt.pt (`{"state_dict", "config"}`, plain tensors and a plain dictionary), OUT/heldout.txt (the
text kept out of training: every twentieth chapter) and OUT/training.json (how it was trained, bits per byte).
"""

import argparse
import itertools
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
import xlstm.blocks.mlstm.backends as mlstm_backends
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMLMModel,
    xLSTMLMModelConfig,
)

HELD_OUT_EVERY = 20  # chapters


def split_chapters(text: str) -> tuple[str, str]:
    """Split verses (`Ge1:1 In the beginning ...`) into training text and held-out text, by whole chapters."""
    chapters = ["".join(v) for _, v in itertools.groupby(text.splitlines(keepends=True), key=lambda l: l.split(":")[0])]
    assert all(re.match(r"^[0-9]?[A-Za-z]+\d+:", c) for c in chapters)
    train = "".join(c for i, c in enumerate(chapters) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1)
    return train, "".join(chapters[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])


def build_model(context_length: int, dim: int, blocks: int) -> tuple[xLSTMLMModel, xLSTMLMModelConfig]:
    """mLSTM blocks, but for the second, an sLSTM block; 256 byte tokens."""
    config = xLSTMLMModelConfig(
        vocab_size=256,
        embedding_dim=dim,
        num_blocks=blocks,
        slstm_at=[1],
        context_length=context_length,
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(
                backend="vanilla", num_heads=4, conv1d_kernel_size=4, bias_init="powerlaw_blockdependent"
            ),
            feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
        ),
    )
    model = xLSTMLMModel(config)
    model.reset_parameters()
    compiled = torch.compile(mlstm_backends.parallel_stabilized_simple)  # four times fewer passes over S x S tensors
    for block in model.xlstm_block_stack.blocks:
        if hasattr(block.xlstm, "mlstm_cell"):
            block.xlstm.mlstm_cell.backend_fn = compiled
    return model, config


def plain_config(config: xLSTMLMModelConfig) -> dict:
    """The configuration as nested dictionaries of plain values, without the derived fields (leading underscore)."""

    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if not k.startswith("_")}
        return value

    return clean(asdict(config))


@torch.no_grad()
def bits_per_byte(model: xLSTMLMModel, data: torch.Tensor, context: int, limit: int = 120_000) -> float:
    """Mean bits per byte over windows of `context` bytes, each from a zero state (pessimistic for the first bytes)."""
    model.eval()
    windows = data[: min(limit, len(data)) // (context + 1) * (context + 1)].view(-1, context + 1).long()
    nats = sum(F.cross_entropy(model(w[:, :-1]).transpose(1, 2), w[:, 1:]).item() * len(w) for w in windows.split(32))
    model.train()
    return nats / len(windows) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, default=Path("models/kjv"))
    parser.add_argument("--minutes", type=float, default=90, help="wall-clock budget; the learning rate follows it")
    parser.add_argument("--context", type=int, default=256, help="bytes; the first three quarters train on half of it")
    parser.add_argument("--batch", type=int, default=16, help="rows of --context bytes, or twice as many of half")
    parser.add_argument("--dim", type=int, default=192, help="width; 448 with 8 blocks has 10 million parameters")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16, for processors with AMX")
    parser.add_argument("--init", type=Path, help="checkpoint to start from (its weights, not its optimiser)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train_text, heldout_text = split_chapters(args.text.read_text("ascii"))
    train = torch.frombuffer(bytearray(train_text, "ascii"), dtype=torch.uint8)
    heldout = torch.frombuffer(bytearray(heldout_text, "ascii"), dtype=torch.uint8)
    model, config = build_model(args.context, args.dim, args.blocks)
    if args.init:
        model.load_state_dict(torch.load(args.init, weights_only=True)["state_dict"])
    decay, no_decay = model.get_weight_decay_optim_groups()
    optimizer = torch.optim.AdamW(
        [{"params": list(decay), "weight_decay": 0.05}, {"params": list(no_decay), "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "heldout.txt").write_text(heldout_text, "ascii")
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters; {len(train):,} training bytes, {len(heldout):,} held out", flush=True)

    start, step, smooth = time.monotonic(), 0, None
    while (progress := (time.monotonic() - start) / (args.minutes * 60)) < 1:
        lr = args.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        context, rows = (args.context // 2, args.batch * 2) if progress < 0.75 else (args.context, args.batch)
        at = torch.randint(len(train) - context - 1, (rows,))
        batch = torch.stack([train[i : i + context + 1] for i in at]).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            logits = model(batch[:, :-1]).float()
        loss = F.cross_entropy(logits.transpose(1, 2), batch[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        bpb = loss.item() / math.log(2)
        smooth = bpb if smooth is None else 0.98 * smooth + 0.02 * bpb
        if step % 20 == 0:
            minutes = (time.monotonic() - start) / 60
            print(f"step {step}  {minutes:.1f} min  {smooth:.3f} bits per byte (training)  lr {lr:.2e}", flush=True)
        if step % 500 == 0:
            print(f"   held out: {bits_per_byte(model, heldout, args.context, 30_000):.3f}", flush=True)
            save(args, model, config, step, None)
    final = bits_per_byte(model, heldout, args.context)
    print(f"held out: {final:.4f} bits per byte after {step} steps", flush=True)
    save(args, model, config, step, final)


def save(
    args: argparse.Namespace, model: xLSTMLMModel, config: xLSTMLMModelConfig, step: int, bpb: float | None
) -> None:
    partial = args.out / "ckpt.pt.partial"
    torch.save({"state_dict": model.state_dict(), "config": plain_config(config)}, partial)
    partial.rename(args.out / "ckpt.pt")
    report = {
        "corpus": "King James Bible, one verse a line (Debian bible-kjv-text); every twentieth chapter held out",
        "steps": step,
        "batch": args.batch,
        "context": args.context,
        "learning_rate": args.lr,
        "seed": args.seed,
        "matrix_products": "bfloat16" if args.bfloat16 else "float32",
        "minutes": args.minutes,
        "threads": torch.get_num_threads(),
        "init": args.init and str(args.init),
        "heldout_bits_per_byte": bpb,
    }
    (args.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
