#!/usr/bin/env python3
"""Continuous batching: tokens a second and the time between tokens, beside one sequence after another and transformers.

    scripts/bench_serving.py                     a small xLSTMForCausalLM with random weights, minutes
    scripts/bench_serving.py --model FOLDER      a Hugging Face checkpoint
    scripts/bench_serving.py --passes BUNDLE...  what a pass costs beside its positions, for serving/planning.py

N sequences each read a prompt of their own length and draw --new tokens. `batcher`: all at once, in one session.
`one by one`: each alone in a session of one row, one after another. `transformers`: `generate` of the same weights in
PyTorch, all prompts in one batch, padded on the left to one length as it wants them (so its prompts are all as long as
the longest: more to read, and the same to draw). All in one run; numbers of one N follow each other directly. The time
between tokens is what a client of the batcher sees: from one of its tokens to the next, with prompts of others read
in between.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_transformers import small_model

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.exporter import export_bundle
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, choose_library
from xlstm_export.runtime import open_session
from xlstm_export.serving import Batcher, Task


class Timed(Task):
    """Draws greedily, and notes when."""

    def __init__(self, tokens: np.ndarray, new: int):
        self.tokens, self.new, self.times, self.drawn = tokens, new, [], []

    def follow(self, logits: np.ndarray) -> int | None:
        self.times.append(time.perf_counter())
        self.drawn.append(int(logits.argmax()))
        return self.drawn[-1] if len(self.drawn) < self.new else None

    def end(self, error: Exception | None) -> None:
        if error is not None:
            raise error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--passes", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32, 64], metavar="N")
    parser.add_argument("--prompt", type=int, default=64, help="the longest prompt; the shortest is a quarter of it")
    parser.add_argument("--new", type=int, default=64, help="tokens that each sequence draws")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--custom-ops", metavar="LIB|none", help="by default the library that `plugins build` made")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # which sessions go by
    library = choose_library(ONNXRUNTIME_LIBRARY, arguments.custom_ops)
    if arguments.passes:
        for bundle in arguments.passes:
            bench_passes(Bundle.open(bundle), library)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or small_model(Path(folder) / "model")
        bundle = export_bundle(open_checkpoint(model), Path(folder) / "bundle")
        bench(bundle, model, library, arguments)


def bench(bundle: Bundle, model: Path, library: Path | None, arguments: argparse.Namespace) -> None:
    import torch
    from transformers import xLSTMForCausalLM

    torch.set_num_threads(arguments.threads)
    theirs = xLSTMForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    theirs.generation_config.eos_token_id = None
    kernels = "our kernels" if library else "definitions"
    print(
        f"{model.name}: prompts of {arguments.prompt // 4} to {arguments.prompt} tokens, {arguments.new} new each, ",
        end="",
    )
    print(f"{arguments.threads} threads, {kernels}, float32. New tokens a second, and milliseconds between tokens.")
    titles = ("batcher", "one by one", "transformers", "/ one", "/ transf.", "p50 ms", "p99 ms", "passes")
    print("  N" + "".join(f"{title:>13}" for title in titles))
    for count in arguments.sequences:
        prompts = draw_prompts(count, arguments.prompt, bundle.manifest.vocab_size or 0)
        tasks, seconds, passes = batched(bundle, prompts, arguments.new, library)
        alone = one_by_one(bundle, prompts, arguments.new, library)
        generated = generated_by(theirs, prompts, arguments.new)
        gaps = 1e3 * np.concatenate([np.diff(task.times) for task in tasks])
        rate, one, other = (count * arguments.new / s for s in (seconds, alone, generated))
        p50, p99 = np.quantile(gaps, [0.5, 0.99])
        rates = (f"{number:.0f}" for number in (rate, one, other))
        cells = (*rates, f"{rate / one:.2f}", f"{rate / other:.2f}", f"{p50:.1f}", f"{p99:.1f}", str(passes))
        print(f"{count:3}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


def draw_prompts(count: int, longest: int, vocabulary: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, vocabulary, length) for length in random.integers(longest // 4, longest + 1, count)]


def batched(
    bundle: Bundle, prompts: list[np.ndarray], new: int, library: Path | None
) -> tuple[list[Timed], float, int]:
    batcher = Batcher(open_session(bundle, batch=len(prompts), custom_ops=library))
    tasks = [Timed(prompt, new) for prompt in prompts]
    warm = batcher.open()
    warm.start(Timed(prompts[0], 2))
    warm.close()
    while batcher.pump():
        pass
    start, before = time.perf_counter(), batcher.stats.passes
    for task in tasks:
        batcher.open().start(task)
    while batcher.pump():
        pass
    return tasks, time.perf_counter() - start, batcher.stats.passes - before


def one_by_one(bundle: Bundle, prompts: list[np.ndarray], new: int, library: Path | None) -> float:
    """Seconds. Of many sequences only some are run, and taken for all: each takes as long."""
    some = prompts[:8]
    with open_session(bundle, custom_ops=library) as session:
        session.prefill([prompts[0]])
        start = time.perf_counter()
        for prompt in some:
            session.reset()
            logits = session.prefill([prompt])[0, 0]
            for _ in range(new - 1):
                logits = session.step(np.array([[logits.argmax()]]))[0, 0]
        return (time.perf_counter() - start) * sum(len(p) + new for p in prompts) / sum(len(p) + new for p in some)


def generated_by(model, prompts: list[np.ndarray], new: int) -> float:
    import torch

    longest = max(map(len, prompts))
    padded = np.stack([np.pad(prompt, (longest - len(prompt), 0), mode="wrap") for prompt in prompts])
    with torch.inference_mode():
        model.generate(torch.from_numpy(padded[:1]), max_new_tokens=2, do_sample=False)
        start = time.perf_counter()
        tokens = model.generate(
            torch.from_numpy(padded), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        seconds = time.perf_counter() - start
    assert tokens.shape[1] == longest + new
    return seconds


def bench_passes(bundle: Bundle, library: Path | None) -> None:
    """Seconds of a pass are taken as a + b × rows × positions: what counts is a / b, positions that cost as much as
    another pass."""
    shapes = [(1, 1), (8, 1), (32, 1), (1, 16), (1, 64), (8, 8), (4, 64)]
    seconds: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    with open_session(bundle, batch=32, custom_ops=library) as session:
        for turn in range(6):
            for rows, positions in shapes:
                tokens = np.zeros((rows, positions), np.int64)
                session.feed(tokens, rows=range(rows))
                start = time.perf_counter()
                session.feed(tokens, rows=range(rows))
                if turn:
                    seconds[rows, positions].append(time.perf_counter() - start)
    best = {shape: min(times) for shape, times in seconds.items()}
    for shape, value in best.items():
        print(f"{bundle.path.name}: {shape[0]} rows × {shape[1]} positions {1e3 * value:.2f} ms")
    sizes = np.array([rows * positions for rows, positions in shapes], float)
    weights = 1 / np.array([*best.values()])
    a, b = np.linalg.lstsq(np.stack([weights, sizes * weights], 1), np.ones(len(shapes)), rcond=None)[0]
    print(f"{bundle.path.name}: a pass costs {1e3 * a:.2f} ms and {1e3 * b:.3f} ms a position: {a / b:.0f} positions")


if __name__ == "__main__":
    main()
