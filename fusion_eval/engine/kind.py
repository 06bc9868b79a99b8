"""What is known of a kind of pass from those before: the fastest batch size, and whether groups are faster."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusion_eval.engine.batch_size import BatchSize
from fusion_eval.engine.fingerprint import fingerprint_config
from fusion_eval.engine.group import Choice
from fusion_eval.engine.subject import Subject
from fusion_eval.tasks import Task

__all__ = ["Kind"]

_sizes: dict[tuple[Any, ...], BatchSize] = {}
_choices: dict[tuple[str, int], Choice] = {}


@dataclass(frozen=True)
class Kind:
    """Passes that take the same time a sample, from task to task and job to job.

    Args:
        digest: Of all that times depend on, but for the data.
        device: That the model runs on.
    """

    digest: str
    device: torch.device

    @classmethod
    def of(cls, task: Task, subject: Subject, device: torch.device, *form: Any) -> Kind:
        """The kind of a pass.

        Args:
            task: Its kind counts.
            subject: Its architecture counts.
            device: That the model runs on.
            *form: In which the model runs: precision, memory format, ...
        """
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
        where = [device.type, name, torch.get_num_threads()]
        return cls(fingerprint_config(subject.architecture, type(task).__qualname__, where, list(form)), device)

    def batch_size(self, asked: int | None, directory: Path | None) -> BatchSize:
        """The batch size, as far as it is known.

        Args:
            asked: See `BatchSize`.
            directory: Where sizes are remembered for other processes; None: nowhere.
        """
        memory = None if directory is None else directory / f"{self.digest}.json"
        if (asked, self.digest, memory) not in _sizes:
            _sizes[asked, self.digest, memory] = BatchSize(asked, self.device, memory)
        return _sizes[asked, self.digest, memory]

    def choice(self, samples: int) -> Choice:
        """What is known of groups with so many samples a batch."""
        return _choices.setdefault((self.digest, samples), Choice(samples))
