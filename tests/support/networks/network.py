"""What a test knows of a user's network: how to build it, what it is fed, and whether it streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from support.networks.randomise import randomise
from xlstm_export.networks.copies import copy_network
from xlstm_export.networks.unrounded import run_unrounded


@dataclass(frozen=True)
class Network:
    """A network in the style of a public one, and the truth about it, from theory."""

    name: str
    factory: Callable[[], nn.Module]
    inputs: Mapping[str, str]
    """By name of `forward`'s arguments, in the notation of the command line: `"B,S,12:float32"`."""
    streams: bool = True
    """Whether it can go on from a state of fixed size, for any cut of the sequence."""
    culprits: tuple[str, ...] = ()
    """Of a network that does not stream: what may be named as what mixes time, any of them."""
    by_hand: bool = False
    """`forward` takes one position, without a time axis, and the state as a last argument, and gives it back last."""
    time_axes: tuple[int | None, ...] = (1,)
    """Of the outputs: where time is. None: one value for all that was read so far."""
    tokens: int = 0
    """Of integer inputs: the number of tokens."""
    refusable: bool = False
    """It streams in theory, but the state has no plain form (rows of another number, a loop): refusing it is right."""
    lengths: tuple[int, ...] = (40, 7, 64)
    """Sequence lengths that `forward` takes."""
    after_random: Callable[[nn.Module], None] = field(default=lambda module: None)
    """Puts back what must not be random."""

    def build(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, every weight random."""
        torch.manual_seed(seed)
        module = self.factory()
        randomise(module, seed)
        self.after_random(module)
        return module.eval()

    def shapes(self) -> dict[str, tuple[list[str], str]]:
        """Axes and dtype of every input: `{"x": (["B", "S", "12"], "float32")}`."""
        parsed = {}
        for name, text in self.inputs.items():
            axes, _, dtype = text.partition(":")
            parsed[name] = (axes.split(","), dtype or "float32")
        return parsed

    def example(self, batch: int, sequence: int, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs; of a network by hand with a time axis after the batch, which `forward` does not take."""
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for name, (axes, dtype) in self.shapes().items():
            sizes = [{"B": batch, "S": sequence}.get(axis) or int(axis) for axis in axes]
            if self.by_hand:
                sizes.insert(1, sequence)
            if dtype == "int64":
                made[name] = torch.randint(self.tokens, sizes, generator=generator)
            else:
                made[name] = torch.randn(sizes, generator=generator, dtype=getattr(torch, dtype))
        return made

    def time_axis(self, name: str) -> int | None:
        """Where time is in an input of `example`; None: it has none."""
        axes, _ = self.shapes()[name]
        if self.by_hand:
            return 1
        return axes.index("S") if "S" in axes else None

    def piece(self, inputs: Mapping[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
        """Positions `begin` to `end` of inputs."""
        axes = {name: self.time_axis(name) for name in inputs}
        return {n: t if axes[n] is None else t.narrow(axes[n], begin, end - begin) for n, t in inputs.items()}

    @torch.no_grad()
    def reference(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What the network itself gives for a whole sequence, output by output; by hand step after step."""
        module = copy_network(module)
        run_unrounded(module)  # TiRex' cell as shipped rounds to bfloat16
        if not self.by_hand:
            return tensors_of(module(**inputs))
        (steps,) = {tensor.shape[1] for tensor in inputs.values()}
        state, given = None, []
        for t in range(steps):
            *outputs, state = module(*(tensor[:, t] for tensor in inputs.values()), state)
            given.append(outputs)
        return [torch.stack(one, 1) for one in zip(*given, strict=True)]


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of what `forward` returned, in their order, out of any nesting of mappings and sequences."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result
    return [tensor for part in parts for tensor in tensors_of(part)]
