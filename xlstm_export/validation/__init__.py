"""Is a bundle the upstream model? Both run side by side; errors are measured, judged and reported."""

from .report import ValidationReport, render, write_report
from .validate import ValidationOptions, validate

__all__ = ["ValidationOptions", "ValidationReport", "render", "validate", "write_report"]
