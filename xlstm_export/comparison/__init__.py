"""Bundles of one model side by side: how large, how good, how fast."""

from .compare import CompareOptions, Comparison, Variant, compare_bundles
from .report import render, save_plot, to_json

__all__ = ["CompareOptions", "Comparison", "Variant", "compare_bundles", "render", "save_plot", "to_json"]
