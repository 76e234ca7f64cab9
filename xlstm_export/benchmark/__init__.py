"""How fast a bundle steps, beside its peers, as a fraction of what the memory allows."""

from .bench import Benchmark, BenchOptions, parse_peers, run_bench
from .job import Source
from .report import render, save_roofline, to_json

__all__ = ["BenchOptions", "Benchmark", "Source", "parse_peers", "render", "run_bench", "save_roofline", "to_json"]
