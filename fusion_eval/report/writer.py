"""The files of a run: report.json, .md and .html and samples/<task>.parquet, on disk as soon as they can be."""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from fusion_eval.report.aggregates import Aggregates
from fusion_eval.report.atomic import atomic_file
from fusion_eval.report.markdown import markdown_page
from fusion_eval.report.record import References, Report, TaskFailure, TaskResult
from fusion_eval.report.samples import encode_samples, remove_samples, write_samples
from fusion_eval.report.seal import seal
from fusion_eval.report.standing import lasting_digest
from fusion_eval.report.truncation import count_truncated

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SCHEMA_VERSION", "ReportWriter"]

SCHEMA_VERSION = 1
"""Of report.json; grows when a reader of an older one would be misled."""

_encoded: weakref.WeakKeyDictionary[TaskResult, bytes] = weakref.WeakKeyDictionary()
"""Results to their samples as Parquet: the jobs of a sweep write the same base and experts."""


class ReportWriter:
    """Writes a run's results as they come, so that whatever ends the run, what was finished is on disk.

    Every file appears whole, under its name, or not at all. To construct a writer takes the directory over: report.json
    says "running" from then on, and the pages and the samples of an earlier run are gone. Of a distributed run, one
    process writes.

    Args:
        directory: Of the run; it is made.
        provenance: As `fusion_eval.report.provenance.provenance` returns it.
        selected_on: The split that the hyper-parameters were chosen on, if any were.
        merge: What the merge says of itself; see `fusion_eval.models.MergedModel`.
        race: How the race against the best merge of a sweep ended; see `fusion_eval.racing.Verdict`.

    Attributes:
        report: What was added so far.
        digest: Of report.json, as far as it lasts: see `lasting_digest`.

    Raises:
        FusionEvalError: (every method) a file cannot be written; the message names it.
    """

    def __init__(
        self,
        directory: Path,
        provenance: dict[str, Any],
        selected_on: str | None = None,
        merge: Mapping[str, Any] | None = None,
        race: Mapping[str, Any] | None = None,
    ) -> None:
        self.report = Report({})
        self._directory = directory
        self._provenance = provenance
        self._selected_on = selected_on
        self._merge = dict(merge or {})
        self._race = None if race is None else dict(race)
        self._overlaps: dict[str, Any] = {}
        self._files: dict[str, str] = {}
        self._write_json("running", References(), Aggregates(), [])
        for page in (self._page, directory / "report.html"):
            page.unlink(missing_ok=True)
        remove_samples(directory)

    def add(self, task: str, outcome: TaskResult | TaskFailure) -> None:
        """Put the outcome of a task on disk: its samples, then report.json."""
        if isinstance(outcome, TaskFailure):
            self.report = Report(self.report.results, {**self.report.failures, task: outcome})
        else:
            self._write_samples("", {task: outcome})
            self.report = Report({**self.report.results, task: outcome}, self.report.failures)
        self._write_json("running", References(), Aggregates(), [])

    def add_all(self, results: Mapping[str, TaskResult]) -> None:
        """Take results that are on disk elsewhere already: their samples are written, report.json when it is final."""
        self._write_samples("", results)
        self.report = Report({**self.report.results, **results}, self.report.failures)

    def finish(
        self,
        references: References,
        aggregates: Aggregates,
        warnings: Iterable[str],
        status: Literal["complete", "partial", "failed", "dropped"],
        error: TaskFailure | None = None,
        overlaps: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write the samples of the references, and the final report.json, report.md and report.html.

        Args:
            references: Results of the base and the experts.
            aggregates: Of the report; their warnings are recorded too.
            warnings: Of the run.
            status: "complete" where every task has a result, "partial" where some have, "failed" where none has,
                "dropped" where the merge lost its race.
            error: What ended the run early.
            overlaps: Task name and name of other data to what they share (an `Overlap`), where that was looked for.
        """
        self._overlaps = {
            task: {name: asdict(found) for name, found in named.items()} for task, named in (overlaps or {}).items()
        }
        self._write_samples("base", references.base)
        self._write_samples("experts", references.experts)
        everything = self._write_json(status, references, aggregates, [*warnings, *aggregates.warnings], error)
        page = markdown_page(
            self.report,
            references,
            aggregates,
            status=status,
            selected_on=self._selected_on,
            warnings=everything,
            provenance=self._provenance,
        )
        with atomic_file(self._page) as file:
            file.write(page.encode(errors="backslashreplace"))
        from fusion_eval.report.page import write_report_page  # which reads what this module writes

        write_report_page(self._directory)

    @property
    def _page(self) -> Path:
        return self._directory / "report.md"

    def _write_samples(self, role: str, results: Mapping[str, TaskResult]) -> None:
        """Write the columns of results, with "score" (the mean of which is the primary metric) as one of them.

        Files are written side by side: what takes the time is to wait for the disk.
        """
        for result in results.values():
            columns = result.samples if result.scores is None else {**result.samples, "score": result.scores}
            if columns and result not in _encoded:
                _encoded[result] = encode_samples(columns)
        encoded = {task: _encoded[result] for task, result in results.items() if result in _encoded}
        with ThreadPoolExecutor(max_workers=8) as threads:
            paths = threads.map(lambda task: write_samples(self._directory, task, encoded[task], role), encoded)
            for path, parquet in zip(paths, encoded.values(), strict=True):
                self._files[path.relative_to(self._directory).as_posix()] = hashlib.sha256(parquet).hexdigest()

    def _write_json(
        self,
        status: str,
        references: References,
        aggregates: Aggregates,
        warnings: list[str],
        error: TaskFailure | None = None,
    ) -> list[str]:
        """Write report.json and return its warnings."""
        results = self.report.results
        document = {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "error": None if error is None else asdict(error),
            "report": self.report,
            "standard_errors": {task: result.standard_errors for task, result in results.items()},
            "counts": {task: result.count for task, result in results.items()},
            "truncated": count_truncated(results),
            "seconds": {task: result.seconds for task, result in results.items()},
            "evaluated_at": {task: result.evaluated_at for task, result in results.items()},
            "primary": {task: result.primary for task, result in results.items()},
            "higher_is_better": {task: result.higher_is_better for task, result in results.items()},
            "references": {
                "base": {task: result.metrics for task, result in references.base.items()},
                "experts": {task: result.metrics for task, result in references.experts.items()},
            },
            "ratios": {task: asdict(ratio) for task, ratio in aggregates.ratios.items()},
            "aggregates": {
                group: {name: asdict(entry) for name, entry in named.items()}
                for group, named in aggregates.groups.items()
            },
            "failures": {task: asdict(failure) for task, failure in self.report.failures.items()},
            "selected_on": self._selected_on,
            "merge": self._merge,
            "overlap": self._overlaps,
            "race": self._race,
            "fingerprints": {task: result.fingerprints for task, result in results.items()},
            "samples": dict(sorted(self._files.items())),
            "provenance": self._provenance,
        }
        lost: list[str] = []
        document = _finite(document, "", lost)
        document["warnings"] = [*warnings, *lost]
        self.digest = lasting_digest(document)
        with atomic_file(self._directory / "report.json") as file:
            file.write(seal(document))
        return [*warnings, *lost]


def _finite(value: Any, path: str, lost: list[str]) -> Any:
    """Replace what JSON has no number for by null, and say where."""
    if isinstance(value, Mapping):
        return {key: _finite(entry, f"{path}.{key}".lstrip("."), lost) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry, f"{path}[{index}]", lost) for index, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(f"{path} is {value}, written as null")
        return None
    return value
