"""Which sequences run together in a pass, and how many positions of each.

A pass computes rows × positions, padding included, and costs something beside: the weights are read once, and every
node of the graph is started. Rows that decode (1 position) and rows that read a chunk of a prompt therefore share a
pass only where the padding costs less than a pass of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

CHUNK = 256
"""Positions of prompts that are read at a time where nobody waits for a token."""
CHUNK_BESIDE_DECODING = 64
"""The same where somebody does: a token comes late by so many positions at most, however long the prompts are."""
PADDING = 8
"""Positions of padding that cost less than another pass. On a CPU with our kernels a pass costs as much as 4 more
positions of `models/kjv`, and as 19 of a model of 165 million parameters (`scripts/bench_serving.py --passes`)."""


def share_out(unread: Sequence[int], most: int | None) -> list[int]:
    """How many positions each sequence has in the next round of passes.

    Prompts are read side by side, in equal shares of a bounded number of positions: a short one is not held up by a
    long one, nor are tokens by either.

    Args:
        unread: the tokens of each sequence that are to be read; 1: it decodes, or reads its last.
        most: of one pass; None: any number.
    """
    readers = sum(count > 1 for count in unread)
    budget = CHUNK_BESIDE_DECODING if readers < len(unread) else CHUNK
    share = max(1, min(budget // max(readers, 1), most or budget))
    return [min(count, share) for count in unread]


def group(positions: Sequence[int]) -> list[list[int]]:
    """The passes of a round: indices of sequences, each group for one pass, those with the fewest positions first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        if groups:
            here = groups[-1]
            padding = sum(positions[index] - positions[other] for other in here)
            if padding <= PADDING:
                here.append(index)
                continue
        groups.append([index])
    return groups
