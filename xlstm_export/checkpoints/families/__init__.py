"""The families that are read. README.md, beside this file, says how to add one."""

from __future__ import annotations

from ...bundle.forecast import ForecastSpec
from ..checkpoint import Checkpoint
from ..files.settings import Settings
from . import tirex, tirex2, xlstm, xlstm_hf, xlstm_large
from .family import Family

FAMILIES: tuple[Family, ...] = (tirex.FAMILY, tirex2.FAMILY, xlstm.FAMILY, xlstm_hf.FAMILY, xlstm_large.FAMILY)
"""A configuration is of the first family whose marks it has: marks that others may share come last."""

MARKS = tuple(family.marks for family in FAMILIES)


def family_of_settings(settings: Settings) -> Family:
    """The family that a configuration is of; it has the marks of one."""
    return next(family for family in FAMILIES if family.owns_settings(settings))


def forecast_of(checkpoint: Checkpoint) -> ForecastSpec | None:
    """How a bundle of this checkpoint is fed, where it is of a forecaster."""
    family = next(family for family in FAMILIES if family.name == checkpoint.family)
    return family.forecast(checkpoint.config) if family.forecast else None
