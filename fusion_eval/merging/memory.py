"""What the jobs of a sweep share: what a merge computed from the same files is kept, up to a limit, and used again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

__all__ = ["Memory", "process_memory"]


class Memory:
    """Tensors by what they were computed from, in groups that are forgotten as a whole.

    A merge goes through the tensors of a model in order, again and again. So to forget the tensor that was used least
    recently would forget each one just before it is needed. What does not fit beside its own group is not kept, and a
    group makes room for itself by forgetting those that were used least recently.

    Args:
        limit: Bytes that are kept at most; 0 keeps nothing.

    Example:
        >>> import torch
        >>> memory = Memory(limit=1000)
        >>> memory.recall(("fisher", "mnist.safetensors"), "weight", lambda: torch.ones(2))
        tensor([1., 1.])
        >>> memory.recall(("fisher", "mnist.safetensors"), "weight", lambda: torch.zeros(2))
        tensor([1., 1.])
        >>> memory.size
        8
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._groups: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(map(_size, self._groups.values()))

    def recall(self, group: Hashable | None, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What was kept under this name, or is made now. It must not be changed.

        Args:
            group: All that the group's tensors depend on, as equal values in equal cases; None: nothing is kept.
            name: Of the tensor in its group.
            make: Makes it.
        """
        if group is None or self.limit == 0:
            return make()
        kept = self._groups.setdefault(group, {})
        self._groups.move_to_end(group)
        if name not in kept:
            made = make()
            if self._make_room(made.nbytes):
                kept[name] = made
            return made
        return kept[name]

    def _make_room(self, wanted: int) -> bool:
        if _size(self._groups[next(reversed(self._groups))]) + wanted > self.limit:
            return False
        while self.size + wanted > self.limit:
            self._groups.popitem(last=False)
        return True


def _size(group: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in group.values())


process_memory = Memory()
"""Of this process. It keeps nothing until a sweep sets its `limit`."""
