"""Bad inputs of every kind, and what their one message must say.

    for bad in BAD_INPUTS:
        checkpoint, config = bad.make(folder)   # arguments of `open_checkpoint`, or CKPT and --config
        # raises UserError, whose message contains bad.message

An input with `when_read` has nothing wrong but its values: the error comes when tensors are read.
"""

from support.bad_inputs import configurations, files, forecasters, models  # noqa: F401  (they register their inputs)
from support.bad_inputs.registry import BAD_INPUTS, Arguments, BadInput
from support.upstream_models import VARIANTS

if "e-folder" in VARIANTS:
    from support.bad_inputs import second_forecasters  # noqa: F401

__all__ = ["BAD_INPUTS", "Arguments", "BadInput"]
