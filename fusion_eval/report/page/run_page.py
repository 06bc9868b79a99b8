"""report.html: one run, in the style of the leaderboard."""

from __future__ import annotations

from markupsafe import Markup

from fusion_eval.report.intervals import Measured, measure
from fusion_eval.report.page.cells import Cell, column
from fusion_eval.report.page.changes import changed_samples, count_changed
from fusion_eval.report.page.facts import facts
from fusion_eval.report.page.fates import count_fates, flip_table, losing_classes
from fusion_eval.report.page.radar import radar
from fusion_eval.report.page.references import ratios, reference_scores
from fusion_eval.report.page.render import render
from fusion_eval.report.page.trios import Trio, read_trios
from fusion_eval.report.rows import aggregate_meaning
from fusion_eval.report.runs import Run, label_runs
from fusion_eval.report.statistics import standard_error_of_mean

__all__ = ["report_page"]


def report_page(run: Run) -> str:
    """Make the page of a run, whether it is complete or not; equal runs give equal text."""
    trios = read_trios(run)
    known = facts(run)
    (label,) = label_runs([run])
    names, shape = _radar(run, label)
    aggregates = {
        f"{group}.{name}": entry for group, named in run.document["aggregates"].items() for name, entry in named.items()
    }
    return render(
        "report.html.j2",
        run=run,
        label=label,
        method={
            key[6:]: value
            for key, value in known.settings.items()
            if key.startswith("model.") and key[6] != "_" and value != "{}"
        },
        rows={task: _row(run, task, trios.get(task)) for task in run.tasks},
        ratios=run.document["ratios"],
        aggregates=aggregates,
        meaning=aggregate_meaning,
        metrics=list(dict.fromkeys(name for task in run.tasks for name in run.document["report"][task])),
        radar=shape,
        radar_names=names,
        flips=(flips := flip_table(trios)),
        fates=count_fates(flips),
        classes=losing_classes(trios),
        samples=changed_samples(trios),
        changed=count_changed(trios),
        facts=known,
    )


def _row(run: Run, task: str, trio: Trio | None) -> list[Cell]:
    """Merged model, base and expert on a task, their bars on one scale."""
    metric = run.primary(task)
    merged, error = run.value(f"{task}.{metric}")
    scores = dict(zip(("base", "experts", "merged"), trio.scores.T, strict=True)) if trio else {}
    groups = trio.samples["merged"].get("group") if trio else None
    row = [measure(merged, error, scores.get("merged"), groups)]
    for role in ("base", "experts"):
        value, own = reference_scores(run, role).get(task), scores.get(role)
        row.append(Measured(value) if own is None else measure(value, standard_error_of_mean(own, groups), own, groups))
    return column(row, ranked=0, lower=False)


def _radar(run: Run, label: str) -> tuple[list[str], Markup | None]:
    experts = reference_scores(run, "experts")
    own = ratios(run, {task: run.value(f"{task}.{run.primary(task)}")[0] for task in run.tasks}, experts)
    base = ratios(run, reference_scores(run, "base"), experts)
    shapes = {name: values for name, values in ((label, own), ("base", base)) if values}
    return list(shapes), radar(run.tasks, shapes) if own else None
