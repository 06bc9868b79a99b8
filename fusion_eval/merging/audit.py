"""The pre-flight audit: can these checkpoints be merged, and is there anything odd about them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusion_eval.errors import MergeError
from fusion_eval.merging.audit_checks import Finding, Severity, check_models, check_structure, check_tensors
from fusion_eval.merging.audit_statistics import BaseStatistics, ExpertStatistics, statistics
from fusion_eval.merging.audit_survey import Survey, survey
from fusion_eval.merging.state_dict import StateDict
from fusion_eval.merging.stream import Integers

__all__ = ["Audit", "BaseStatistics", "ExpertStatistics", "Finding", "Survey", "audit", "judge", "survey"]


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        findings: Errors first, then warnings, then notes.
        base: The size of the base.
        experts: Name to how far the expert is from the base and from the others, for those that could be read.
    """

    findings: tuple[Finding, ...]
    base: BaseStatistics
    experts: Mapping[str, ExpertStatistics]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def raise_for_errors(self) -> None:
        """Do nothing if the models can be merged.

        Raises:
            MergeError: They cannot; one message with all errors, a line each.
        """
        if errors := [finding.message for finding in self.of("error")]:
            raise MergeError("\n  ".join(["these checkpoints cannot be merged:", *errors]))


def audit(
    base: StateDict,
    experts: Mapping[str, StateDict],
    recalibrates: bool = False,
    integers: Integers = "base",
) -> Audit:
    """Look at base and experts before they are merged, whatever the method.

    One pass over all tensors, in float64; memory for one tensor of every model where state dicts are read lazily. The
    order of keys and of experts is immaterial.

    Args:
        base: The pretrained weights.
        experts: Expert name to its weights. An expert that raises `CheckpointError` when it is asked for is an error
            among the findings.
        recalibrates: Whether BatchNorm statistics will be taken anew from data after the merge.
        integers: What is done with integer tensors: "base" copies them, "average" averages and rounds.

    Example:
        >>> import torch
        >>> base = {"weight": torch.eye(20), "steps": torch.tensor(7)}
        >>> tuned = {"weight": torch.eye(20) * 1.1, "steps": torch.tensor(7)}
        >>> found = audit(base, {"tuned": tuned, "copy": base, "short": {"weight": torch.eye(19)}})
        >>> for finding in found.findings:
        ...     print(f"{finding.severity}: {finding.message}")
        error: expert 'short' lacks steps
        error: expert 'short' has other shapes: weight is (19, 19), not (20, 20)
        warning: expert 'copy' is the base: every tensor is equal
        note: integer tensors are copied from the base: steps
        >>> round(found.experts["tuned"].relative_norm, 3)
        0.1
    """
    return judge(survey(base, experts), recalibrates, integers)


def judge(found: Survey, recalibrates: bool = False, integers: Integers = "base") -> Audit:
    """The audit of a survey: takes no time, where the survey reads all checkpoints and may be kept for a whole sweep.

    Args:
        found: As `survey` returns it.
        recalibrates: As `audit` takes it.
        integers: As `audit` takes it.
    """
    base, experts = statistics(found)
    findings = (
        *check_structure(found),
        *check_models(found, base, experts),
        *check_tensors(found, recalibrates, integers),
    )
    order = ("error", "warning", "note")
    return Audit(tuple(sorted(findings, key=lambda finding: order.index(finding.severity))), base, experts)
