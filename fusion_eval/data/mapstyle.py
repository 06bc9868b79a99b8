"""Any map-style data set: torchvision's, a `torch.utils.data.Dataset` of your own, a list of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from fusion_eval.data.arrays import AsInput
from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.data.transform import TransformedSamples
from fusion_eval.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MapStyle"]


@dataclass(frozen=True)
class MapStyle(DataSource):
    """A data set with `__len__` and a `__getitem__` that returns `(input, target)`.

    Its fingerprint reads every item once, before `transform`. A random augmentation inside the data set would give it
    another one each time.

    Args:
        dataset: Makes the data set when it is called, so that nothing is read before `load`; in YAML a node with
            `_partial_: true`. A data set that exists already will do as well.
        transform: From the input of an item to what the model takes; None converts arrays to tensors (floats to
            float32) and passes tensors and mappings of tensors on.
        class_names: The classes in the order of their target; None takes the data set's attribute `classes`, if any.

    Example:
        >>> samples = MapStyle([([0.5, 1.0], 1), ([2.0, 0.0], 0)], class_names=["no", "yes"]).load()
        >>> samples[0], samples.class_names
        ((tensor([0.5000, 1.0000]), 1), ('no', 'yes'))
    """

    dataset: Any
    transform: Callable[..., Any] | None = None
    class_names: list[str] | None = None

    def load(self) -> Samples:
        """Make the data set, and look at its first item.

        Returns:
            Items `(transform(input), target)`.

        Raises:
            DataError: the data set cannot be made, has no items, no length, or items that are no pairs.
        """
        dataset = self._make()
        name = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        ):
            raise DataError(f"{name} is no map-style data set: it needs __len__ and __getitem__")
        if len(dataset) == 0:
            raise DataError(f"{name} has no items")
        class_names = self.class_names or _class_names(dataset)
        samples = TransformedSamples(_Items(dataset, class_names), self.transform or AsInput())
        _ = samples[0]  # what is wrong with every item should be said here
        return samples

    def _make(self) -> Any:
        if not callable(self.dataset):
            return self.dataset
        try:
            return self.dataset()
        except Exception as error:  # other people's code: "not found, use download=True" comes as any class
            raise DataError(f"{self.dataset} cannot be made: {type(error).__name__}: {error}") from error


class _Items(Samples):
    def __init__(self, dataset: Any, class_names: list[str] | None) -> None:
        self._dataset = dataset
        self.class_names = None if class_names is None else tuple(class_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self._dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"item {index} of {type(self._dataset).__name__} should be (input, target): {item!r:.200}")
        return item[0], item[1]

    def fingerprint(self) -> str:
        return digest_content(self[index] for index in range(len(self)))


def _class_names(dataset: Any) -> list[str] | None:
    """The attribute `classes`, as strings; torchvision's ImageNet has tuples of synonyms there."""
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, (list, tuple)):
        return None
    return [", ".join(name) if isinstance(name, (list, tuple)) else str(name) for name in classes]
