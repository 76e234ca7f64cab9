#!/usr/bin/env python3
"""Load on `xlstm-export serve`, at saturation, on 127.0.0.1: errors, growth of memory, and whose answer is whose.

    scripts/load_serve.py                        ten minutes on models/kjv, two replicas
    scripts/load_serve.py --minutes 2 --clients 40

Clients outnumber slots and queue, so that some are refused with a 429 and come again after `Retry-After`. Each asks for
the continuation of a prompt of its own choice out of many, greedily, whole or as a stream, some in two turns of a
conversation, some of them gone before the end. What each must be answered was found out before, by a session of one
row: an answer that is not the one to its own prompt is a mixed-up sequence. Exit code 1: an error, a wrong answer, or
memory that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from xlstm_export.bundle import Bundle
from xlstm_export.checkpoints import open_checkpoint
from xlstm_export.exporter import export_bundle
from xlstm_export.native.locate import ONNXRUNTIME_LIBRARY, choose_library
from xlstm_export.runtime import Session, open_session

ROOT = Path(__file__).resolve().parent.parent
PROMPTS, LONGEST, NEW = 96, 400, 96
"""Prompts to choose from, the longest of them in bytes, and the most new tokens of an answer."""
GROWTH = 0.03
"""Of the replicas' memory from the second quarter of the time to the last: more is called growth."""


@dataclass
class Findings:
    """What came of the load."""

    counts: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of answers, from the request that was taken to the end."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds, and bytes of all replicas."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--custom-ops", metavar="LIB|none", help="by default the library that `plugins build` made")
    arguments = parser.parse_args()
    library = choose_library(ONNXRUNTIME_LIBRARY, arguments.custom_ops)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_bundle(open_checkpoint(ROOT / "models" / "kjv"), Path(folder) / "kjv")
        with open_session(bundle, custom_ops=library) as session:
            expected = {prompt: answer_alone(session, prompt) for prompt in draw_prompts()}
        findings = run(bundle, expected, library, Path(folder), arguments)
    sys.exit(report(findings, arguments))


def draw_prompts() -> list[str]:
    """Texts of the Bible's words, all different from their first letters on."""
    choose = random.Random(0)
    words = "And the LORD said unto Moses in those days it came to pass that he went out from before his people".split()
    lengths = (choose.choice([20, 60, 150, LONGEST]) for _ in range(PROMPTS))
    return [(f"{n}. " + " ".join(choose.choices(words, k=LONGEST)))[:length] for n, length in enumerate(lengths)]


def answer_alone(session: Session, prompt: str) -> str:
    session.reset()
    logits = session.prefill([np.frombuffer(prompt.encode(), np.uint8).astype(np.int64)])[0, 0]
    text = []
    for _ in range(NEW):
        text.append(int(logits.argmax()))
        logits = session.step(np.array([[text[-1]]]))[0, 0]
    return bytes(text).decode(errors="replace")


def run(
    bundle: Bundle, expected: dict[str, str], library: Path | None, folder: Path, arguments: argparse.Namespace
) -> Findings:
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "xlstm_export.cli", "serve", str(bundle.path), "--port", str(port)]
    command += [
        "--metrics-port",
        str(metrics),
        "--custom-ops",
        str(library or "none"),
        "--states",
        str(folder / "states"),
    ]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("replicas", "slots", "queue")]
    log = folder / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(command, stderr=stream)
        try:
            while "Serving" not in log.read_text():
                if server.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.5)
            return asyncio.run(load(f"http://127.0.0.1:{port}/v1/completions", expected, server.pid, arguments))
        finally:
            server.terminate()
            server.wait(60)


async def load(url: str, expected: dict[str, str], server: int, arguments: argparse.Namespace) -> Findings:
    findings, end = Findings(), time.monotonic() + 60 * arguments.minutes
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connections, timeout=aiohttp.ClientTimeout(total=300)) as http:
        clients = [client(http, url, expected, findings, end, seed) for seed in range(arguments.clients)]
        await asyncio.gather(watch(server, findings, end), *clients)
    return findings


async def watch(server: int, findings: Findings, end: float) -> None:
    """Look at the memory of the replicas now and then."""
    start = time.monotonic()
    while time.monotonic() < end:
        children = psutil.Process(server).children(recursive=True)
        replicas = [child for child in children if "ServeReplica" in " ".join(child.cmdline())]
        findings.memory.append((time.monotonic() - start, sum(child.memory_info().rss for child in replicas)))
        await asyncio.sleep(5)


async def client(
    http: aiohttp.ClientSession, url: str, expected: dict[str, str], findings: Findings, end: float, seed: int
) -> None:
    choose, prompts = random.Random(seed), [*expected]
    while time.monotonic() < end:
        prompt, new = choose.choice(prompts), choose.randint(3, NEW)
        right, one = expected[prompt][:new], Request(http, url, findings)
        what = choose.choice(["whole", "stream", "stream", "two turns", "gone"])
        try:
            match what:
                case "whole":
                    text = (await one.whole(prompt=prompt, max_tokens=new))["choices"][0]["text"]
                case "two turns":  # the second reads the letter that follows, and goes on behind it
                    first = new // 2
                    answer = await one.whole(prompt=prompt, max_tokens=first, keep_state=True)
                    told = {"prompt": right[first], "max_tokens": new - first - 1, "state": answer["state"]}
                    later = await one.whole(**told)
                    text = answer["choices"][0]["text"] + right[first] + later["choices"][0]["text"]
                case _:
                    text = await one.stream(3 if what == "gone" else None, prompt=prompt, max_tokens=new)
                    right = right[: len(text)] if what == "gone" else right
        except Exception as error:
            findings.counts[f"error: {type(error).__name__}: {error}"[:200]] += 1
            continue
        findings.counts[what] += 1
        findings.tokens += len(text)
        if text != right:
            findings.wrong.append(f"{prompt[:12]!r}, {what}: {text!r} for {right!r}")


@dataclass
class Request:
    """What one client asks, again and again while it is refused."""

    http: aiohttp.ClientSession
    url: str
    findings: Findings

    async def whole(self, **fields: object) -> dict:
        async with self._taken(fields) as response:
            return await response.json()

    async def stream(self, most: int | None, **fields: object) -> str:
        """The text; of so many pieces at most, after which the client is gone."""
        text, pieces = "", 0
        async with self._taken(fields | {"stream": True}) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise RuntimeError(event["error"]["message"])
                    text += event["choices"][0]["text"]
                    pieces += 1
                    if pieces == most:
                        break
        return text

    @asynccontextmanager
    async def _taken(self, fields: dict[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        while True:
            start = time.monotonic()
            response = await self.http.post(self.url, json={"model": "kjv", "temperature": 0} | fields)
            if response.status != 429:
                break
            self.findings.counts["refused with a 429"] += 1
            response.release()
            await asyncio.sleep(float(response.headers["Retry-After"]))
        try:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {await response.text()}")
            yield response
            self.findings.seconds.append(time.monotonic() - start)
        finally:
            response.close()


def report(findings: Findings, arguments: argparse.Namespace) -> int:
    """Print what was found; the exit code."""
    times, sizes = np.array(findings.memory).T
    quarters = [sizes[(times >= q * times[-1] / 4) & (times <= (q + 1) * times[-1] / 4)].mean() for q in range(4)]
    growth = quarters[3] / quarters[1] - 1
    for name, count in findings.counts.most_common():
        print(f"{count:8} {name}")
    p50, p99 = np.quantile(findings.seconds, [0.5, 0.99])
    print(f"{arguments.minutes:g} minutes, {arguments.clients} clients, {arguments.replicas} replicas: ", end="")
    print(f"{findings.tokens / 60 / arguments.minutes:.0f} tokens/s; an answer takes {p50:.2f} s, p99 {p99:.2f} s")
    print("memory of the replicas by quarters, MiB: " + " ".join(f"{size / 2**20:.1f}" for size in quarters), end="")
    print(f" ({100 * growth:+.1f}%)")
    print(f"answers that were not those of their prompts: {len(findings.wrong)}", *findings.wrong[:5], sep="\n  ")
    failed = any(name.startswith("error") for name in findings.counts) or findings.wrong or growth > GROWTH
    return int(bool(failed))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
