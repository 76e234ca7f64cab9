"""A bundle's checkpoint as upstream's own model, and whether the two belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ..bundle import Bundle
from ..checkpoints.checkpoint import Checkpoint
from ..errors import ErrorKind, UserError
from . import UpstreamModel, build_upstream


def load_upstream(checkpoint: Checkpoint) -> UpstreamModel:
    """Build the upstream model of a checkpoint and load its weights, widened to float32.

    Raises:
        UserError: an upstream package is not installed, or upstream itself refuses the configuration or the weights.
    """
    try:
        with torch.device("meta"):  # the weights replace every parameter
            model = build_upstream(checkpoint.family, checkpoint.config)
    except ImportError as error:
        raise UserError(
            ErrorKind.unavailable,
            f"the upstream PyTorch model, which a bundle is compared with, cannot be imported ({error}). "
            "Run: pip install 'xlstm-export[reference]'",
        ) from None
    except Exception as error:  # upstream checks by assertion, KeyError, ValueError
        message = f"the upstream model cannot be built from the configuration of {checkpoint.path}: "
        raise UserError(ErrorKind.checkpoint, message + f"{type(error).__name__}: {error}") from None
    try:
        model.module.load_state_dict({name: t.read().float() for name, t in checkpoint.upstream.items()}, assign=True)
    except RuntimeError as error:
        raise UserError(
            ErrorKind.checkpoint, f"the upstream model refuses the weights of {checkpoint.path}: {error}"
        ) from None
    model.module.eval().requires_grad_(False)
    return model


def check_architecture(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """See that a checkpoint, or a configuration with random weights, is of the bundle's family and architecture.

    Raises:
        UserError: it is not; says in what they differ.
    """
    manifest = bundle.manifest
    again = _again(checkpoint)
    if manifest.family != checkpoint.family:
        families = f"{bundle.path} is of family {manifest.family}, {checkpoint.path} of family {checkpoint.family}"
        raise UserError(ErrorKind.argument, f"{families}. {again}")
    ours, theirs = manifest.architecture, _plain(checkpoint.architecture.to_dict())
    if different := list(_differences(ours, theirs)):
        shown = "; ".join(f"{at}: bundle {a}, checkpoint {b}" for at, a, b in different[:4])
        more = f"; and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            ErrorKind.argument, f"{bundle.path} and {checkpoint.path} are different models ({shown}{more}). {again}"
        )


def check_pair(bundle: Bundle, checkpoint: Checkpoint) -> str:
    """The checkpoint's SHA-256, when it is the one that the bundle was made from.

    Raises:
        UserError: it is another; says in what they differ.
    """
    manifest, again = bundle.manifest, _again(checkpoint)
    check_architecture(bundle, checkpoint)
    if manifest.source.sha256 is None:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} was made from random weights, without a checkpoint: nothing to compare it with.",
        )
    digest = checkpoint.hashes().whole
    if digest != manifest.source.sha256:
        raise UserError(
            ErrorKind.argument,
            f"{bundle.path} was made from other weights "
            f"({manifest.source.path}, sha256 {manifest.source.sha256[:12]}...) than {checkpoint.path} holds "
            f"(sha256 {digest[:12]}...). {again}",
        )
    return manifest.source.sha256


def _again(checkpoint: Checkpoint) -> str:
    return f"Export it again with `xlstm-export onnx {checkpoint.path}`, or give the checkpoint it was made from."


def _plain(value: object) -> object:
    """As it is after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(a: object, b: object, at: str = "") -> Iterator[tuple[str, object, object]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from _differences(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{at}[{index}]")
    elif a != b:
        sizes = [f"{len(value)} entries" if isinstance(value, list) else value for value in (a, b)]
        yield at, sizes[0], sizes[1]
