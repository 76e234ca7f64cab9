"""The version of the package, and of the bundles' producer."""

__version__ = "0.1.0"
