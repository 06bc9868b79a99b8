"""Prompts that begin alike, side by side in one sequence: under causal attention their beginning is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

__all__ = ["PackedPrompts", "pack_prompts"]


@dataclass(frozen=True)
class PackedPrompts:
    """Rows of tokens, each row a prefix tree of some prompts: a token sees its ancestors and itself.

    Attributes:
        inputs: Arguments of a causal text model of transformers: `input_ids` and `position_ids`, int64, shape `(rows,
            length)`; `attention_mask`, float32, shape `(rows, 1, length, length)`, which is added to the scores.
        rows: Shape `(prompts,)`, int64: the row of each prompt.
        ends: Shape `(prompts,)`, int64: where in its row its last token is.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    ends: Tensor

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """The inputs of so many rows at a time."""
        for start in range(0, len(self.inputs["input_ids"]), size):
            yield {name: tensor[start : start + size] for name, tensor in self.inputs.items()}


def pack_prompts(prompts: Sequence[list[int]], length: int) -> PackedPrompts:
    """Lay prompts into rows.

    In sorted order, what a prompt shares with any prompt before it, it shares with the one right before it.

    Args:
        prompts: Token ids, at least one and at most `length` of them each.
        length: Tokens a row holds at most.

    Example:
        >>> packed = pack_prompts([[7, 1, 9], [7, 2, 9], [7, 1, 3, 9]], length=10)
        >>> packed.inputs["input_ids"].tolist(), packed.inputs["position_ids"].tolist()
        ([[7, 1, 3, 9, 9, 2, 9]], [[0, 1, 2, 3, 2, 1, 2]])
        >>> packed.ends.tolist()
        [4, 6, 3]
    """
    rows: list[list[tuple[int, list[int]]]] = []
    places = [(0, 0)] * len(prompts)
    before: list[int] = []
    path: list[int] = []
    for number in sorted(range(len(prompts)), key=prompts.__getitem__):
        prompt = prompts[number]
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False))))
        if not rows or len(rows[-1]) + len(prompt) - shared > length:
            rows.append([])
            shared = 0
        row, path = rows[-1], path[:shared]
        for token in prompt[shared:]:
            path = [*path, len(row)]
            row.append((token, path))
        places[number] = len(rows) - 1, path[-1]
        before = prompt
    of_rows, ends = torch.tensor(places).T
    return PackedPrompts(_inputs(rows), of_rows, ends)


def _inputs(rows: list[list[tuple[int, list[int]]]]) -> dict[str, Tensor]:
    """Tensors of rows of tokens with their paths from the root; what fills up shorter rows sees only itself."""
    length = max(map(len, rows))
    ids, positions = torch.zeros(2, len(rows), length, dtype=torch.int64)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1, 1)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor([token for token, _ in row])
        positions[number, : len(row)] = torch.tensor([len(path) - 1 for _, path in row])
        pairs = [(place, ancestor) for place, (_, path) in enumerate(row) for ancestor in path]
        places, ancestors = torch.tensor(pairs).T
        seen[number, 0, places, ancestors] = True
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
