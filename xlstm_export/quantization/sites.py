"""Where weights of a graph can be quantised: matrices of products, and rows that are looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from ..operators.products import FLOATS, names_within, takes_transposed
from .formats import INT4, INT8, Format


@dataclass(frozen=True)
class Site:
    """A weight matrix W and all that reads it.

    Attributes:
        name: the weight's: `blocks.0.mlstm.proj_up.weight`.
        value: the initializer.
        products: nodes that compute x Wᵀ: `Linear` and its like, `MatMul` or `Gemm`.
        lookups: `Gather` nodes that read rows of W.
        transposed: the initializer is Wᵀ, (K, N); else W, (N, K).
    """

    name: str
    value: ir.Value
    products: tuple[ir.Node, ...]
    lookups: tuple[ir.Node, ...]
    transposed: bool

    @property
    def dtype(self) -> ir.DataType:
        """Float32, float16 or bfloat16."""
        assert self.value.dtype is not None
        return self.value.dtype

    @property
    def outputs(self) -> int:
        """N."""
        return self._shape[1 if self.transposed else 0]

    @property
    def inputs(self) -> int:
        """K."""
        return self._shape[0 if self.transposed else 1]

    @property
    def size(self) -> int:
        return self.outputs * self.inputs

    @property
    def _shape(self) -> tuple[int, int]:
        assert self.value.shape is not None
        rows, columns = self.value.shape.numpy()
        return rows, columns


def fitting(site: Site, format_: Format) -> Format | None:
    """The format, or the one that stands in for it where a weight's rows are looked up; None: it stays as it is.

    A row of four-bit codes has to begin with a byte, and eight-bit floats are not looked up.
    """
    if not site.lookups:
        return format_
    row = site.outputs if site.products else site.inputs
    return {INT4.name: INT8 if row % 2 else INT4, INT8.name: INT8}.get(format_.name)


def find_sites(graph: ir.Graph, block_size: int) -> list[Site]:
    """All weights that can be quantised in blocks, in the order in which the graph reads them.

    A weight is left out where a node that is neither product nor lookup reads it, or K is less than one block.
    """
    first_use = {id(node): index for index, node in enumerate(graph)}
    found = []
    for value in graph.initializers.values():
        if value.dtype in FLOATS and value.shape is not None and len(value.shape) == 2 and value.uses():
            site = _site(value)
            if site is not None and site.inputs >= block_size:
                found.append(site)
    return sorted(found, key=lambda site: min(first_use[id(n)] for n in (*site.products, *site.lookups)))


def _site(value: ir.Value) -> Site | None:
    products, lookups, sides = [], [], set()
    for node, index in value.uses():
        transposed = takes_transposed(node) if index == 1 else None
        if transposed is not None:
            products.append(node)
            sides.add(transposed)
        elif node.op_type == "Gather" and index == 0 and node.attributes.get_int("axis", 0) == 0:
            lookups.append(node)
            sides.add(False)
        else:
            return None
    if len(sides) != 1:
        return None
    (transposed,) = sides
    return Site(_name(value, (*products, *lookups)), value, tuple(products), tuple(lookups), transposed)


def _name(value: ir.Value, nodes: Sequence[ir.Node]) -> str:
    """The weight's own name, or where the optimizer has made another of it (`constants.3`), its module's."""
    assert value.name is not None
    module = (nodes[0].name or "").rpartition("/")[0]
    return f"{module}.weight" if value.name.startswith("constants.") and module else value.name


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (with `*` and `?`) is the whole name, or the module that it is in.

    Of weights that lie one under the other, any one's name counts: they have one format.
    """
    names = (name, *names_within(name))
    return any(fnmatchcase(one, pattern) or fnmatchcase(one, f"{pattern}.*") for pattern in patterns for one in names)


def unmatched(sites: Sequence[Site], patterns: Sequence[str]) -> Iterator[str]:
    """Patterns that stand for none of the weights."""
    for pattern in patterns:
        if not any(matches(site.name, [pattern]) for site in sites):
            yield pattern
