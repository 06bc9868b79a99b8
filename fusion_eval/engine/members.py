"""Which of the models to come may be evaluated along with the one whose turn it is."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from fusion_eval.engine.ahead import process_ahead
from fusion_eval.engine.assignment import Assignment
from fusion_eval.engine.fingerprint import code_of
from fusion_eval.engine.group import Choice, GroupPass
from fusion_eval.engine.key import dependencies, process_key
from fusion_eval.engine.prepare import find_head
from fusion_eval.engine.store import DiskStore, process_store
from fusion_eval.engine.subject import Subject
from fusion_eval.models import MergedModel

__all__ = ["Admission", "Member"]


class Member(NamedTuple):
    """A model to come.

    Attributes:
        model: It.
        key: All that its result depends on.
    """

    model: nn.Module
    key: Hashable


@dataclass(frozen=True)
class Admission:
    """Lets in the models that differ in nothing but weights, and whose result nobody knows.

    Args:
        assignment: What is evaluated in this turn.
        settings: What else decides the numbers.
        store: Of results.
        share: Whether heads that were loaded before will do.
    """

    assignment: Assignment
    settings: dict[str, Any]
    store: DiskStore | None
    share: bool

    def start(self, coming: Iterable[nn.Module], choice: Choice, most: int) -> GroupPass | None:
        """The pass of a group; None where nobody goes along, and nothing is to be measured.

        Args:
            coming: The models to come.
            choice: What is known of their kind.
            most: How many models may be a group.
        """
        if not choice.measured:
            return GroupPass(self.assignment, choice, [])
        members = self.members(coming, choice.room(self.assignment.subject.model, most) - 1)
        if not members or choice.is_faster(len(members) + 1) is False:
            return None
        return GroupPass(self.assignment, choice, members)

    def members(self, coming: Iterable[nn.Module], most: int) -> list[Member]:
        """Those of the next `most` models that may go along."""
        found = {key: Member(model, key) for model in itertools.islice(coming, most) if (key := self._key(model))}
        return list(found.values())  # equal ones go along once

    def _key(self, model: nn.Module) -> Hashable | None:
        """What the result of a model depends on; None where it may not go along."""
        turn, task = self.assignment, self.assignment.task
        if type(model) is not type(turn.subject.model) or _varies(model):
            return None
        subject = Subject(model, find_head(turn.name, task, model, self.share))
        if not _alike(subject, turn.subject):
            return None
        fingerprints = {**turn.fingerprints, **subject.fingerprints}
        if fingerprints == turn.fingerprints or fingerprints["head"] != turn.fingerprints["head"]:
            return None
        key = process_key(fingerprints, task, turn.metrics, subject, turn.indices, self.settings)
        if key is None or key in process_store or key in process_ahead:
            return None
        if self.store is not None:
            depends_on = dependencies(fingerprints, task, subject, turn.samples, turn.indices, self.settings)
            if depends_on is not None and self.store.holds(depends_on):
                return None
        return key


def _alike(one: Subject, other: Subject) -> bool:
    """Whether models differ in nothing but weights."""
    return code_of(one.backbone) == code_of(other.backbone) and one.architecture == other.architecture


def _varies(model: nn.Module) -> bool:
    """Whether it is another model for each task."""
    return isinstance(model, MergedModel) and model.variants is not None
