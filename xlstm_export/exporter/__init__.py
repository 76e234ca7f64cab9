"""Checkpoint → bundle."""

from .write import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]
