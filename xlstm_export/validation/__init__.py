"""Is a bundle the model that it was made from? Both run side by side; errors are measured, judged and reported."""

from .network import validate_network
from .report import ValidationReport, render, write_report
from .validate import ValidationOptions, validate

__all__ = ["ValidationOptions", "ValidationReport", "render", "validate", "validate_network", "write_report"]
