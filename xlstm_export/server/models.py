"""What one replica runs: a language model or a forecaster, as the bundle is."""

from __future__ import annotations

from pathlib import Path

from ..bundle import Bundle
from ..runtime import open_session
from ..runtime.generation import require_logits
from ..runtime.tokenizers import open_tokenizer
from .conversations import Conversations
from .forecast_model import ForecastModel
from .language_model import LanguageModel
from .settings import Settings

_SERIES = 8
"""Side by side in one pass of a forecaster."""


def check_servable(bundle: Bundle) -> None:
    """See that a bundle is of a language model with a tokenizer, or a forecaster.

    Raises:
        UserError: it is not.
    """
    if bundle.manifest.forecast is None:
        require_logits(bundle.manifest)
        open_tokenizer(bundle)


def open_model(settings: Settings) -> LanguageModel | ForecastModel:
    """Load the bundle.

    Raises:
        UserError: it cannot be served, or the runtime is not here.
    """
    bundle = Bundle.open(Path(settings.bundle))
    check_servable(bundle)
    library = None if settings.custom_ops is None else Path(settings.custom_ops)
    if bundle.manifest.forecast is not None:
        batch = bundle.manifest.batch or _SERIES
        return ForecastModel(bundle.path.name, open_session(bundle, settings.runtime, batch, library), settings.queue)
    session = open_session(bundle, settings.runtime, settings.slots, library)
    conversations = Conversations(Path(settings.states), settings.keep_hours * 3600)
    return LanguageModel(bundle.path.name, session, open_tokenizer(bundle), settings.queue, conversations)
