"""The command `fusion-eval-report`: leaderboards, comparisons and checks of what `fusion-eval` left on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_eval.command import ending_well
from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fusion_eval.report.runs import Run

__all__ = ["main", "write_and_print_leaderboard"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script.

    Exits with 0; with 1 where `verify` finds something wrong, or the input is; with 2 for wrong arguments.
    """
    with ending_well("fusion-eval-report"):
        options = _parser().parse_args(arguments)
        code = options.run(options)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fusion-eval-report", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    board = commands.add_parser("leaderboard", help="rank all runs below some directories")
    board.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="of sweeps or runs")
    board.add_argument("--sort", metavar="KEY", help="normalised.mean_of_ratios, mnist.accuracy, ...")
    board.add_argument("--ascending", action=argparse.BooleanOptionalAction, help="less is better")
    board.add_argument("--output", type=Path, metavar="DIR", help="where leaderboard.* are written; default: first DIR")
    board.set_defaults(run=_leaderboard)

    compare = commands.add_parser("compare", help="test the difference between two runs, sample by sample")
    compare.add_argument("first", type=Path, metavar="A", help="directory or report.json of a run")
    compare.add_argument("second", type=Path, metavar="B", help="that of another")
    compare.add_argument("--classes", action="store_true", help="lost and gained samples of each class")
    compare.set_defaults(run=_compare)

    verify = commands.add_parser(
        "verify", help="check report.json and its per-sample files: every byte, and every number anew"
    )
    verify.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="report.json or its directory")
    verify.set_defaults(run=_verify)

    store = commands.add_parser("store", help="list, verify or prune stored results")
    store.add_argument("action", choices=["list", "verify", "prune"])
    store.add_argument(
        "directory", nargs="?", type=Path, metavar="DIR", help="of the store; default: where fusion-eval keeps results"
    )
    store.add_argument("--older-than", type=days, metavar="DAYS", help="prune what was evaluated before")
    store.add_argument("--unused", type=days, metavar="DAYS", help="prune what was not read since")
    store.add_argument("--max-bytes", type=int, metavar="N", help="prune what was not read for longest, down to a size")
    store.add_argument("--damaged", action="store_true", help="prune what cannot be read")
    store.set_defaults(run=_store)
    return parser


def days(text: str) -> timedelta:
    """A number of days; argparse names what is no number by the name of this function."""
    return timedelta(days=float(text))


def write_and_print_leaderboard(
    directories: Sequence[Path], output: Path, *, sort: str | None = None, ascending: bool | None = None
) -> list[Run]:
    """Rank all runs below some directories, write leaderboard.* into another, and print it.

    Returns:
        The runs that are not complete.

    Raises:
        FusionEvalError: There is nothing to rank, or a file cannot be written.
    """
    from fusion_eval.report.leaderboard import leaderboard
    from fusion_eval.report.leaderboard_files import write_leaderboard
    from fusion_eval.report.leaderboard_table import print_leaderboard
    from fusion_eval.report.page import write_leaderboard_page
    from fusion_eval.report.runs import find_runs

    runs, unread = find_runs(directories)
    if not runs and not unread:
        raise ConfigError(f"{', '.join(map(str, directories))}: no run: there is no report.json below")
    board = leaderboard(runs, unread, sort=sort, ascending=ascending)
    paths = [*write_leaderboard(board, output), write_leaderboard_page(board, runs, output)]
    print_leaderboard(board)
    print(*paths, sep="\n")
    return [run for run in runs if run.status not in ("complete", "dropped")]


def _leaderboard(options: argparse.Namespace) -> None:
    output = options.output or options.directories[0]
    write_and_print_leaderboard(options.directories, output, sort=options.sort, ascending=options.ascending)


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from fusion_eval.report.comparison import compare
    from fusion_eval.report.comparison_table import comparison_table
    from fusion_eval.report.runs import label_runs, read_run

    first, second = read_run(options.first), read_run(options.second)
    labels = label_runs([first, second])
    console = Console()
    console.width = max(console.width, 100)
    console.print(comparison_table(compare(first, second), (labels[0], labels[1]), classes=options.classes))


def _verify(options: argparse.Namespace) -> int:
    from fusion_eval.report.verify import verify

    failed = False
    for path in options.reports:
        verdict = verify(path)
        failed |= bool(verdict.failed)
        print(f"{path}: {'FAILED' if verdict.failed else 'verified'}")
        for line in verdict.passed:
            print(f"  ok      {line}")
        for line in verdict.failed:
            print(f"  FAILED  {line}")
        if verdict.unchecked:
            print(f"  note    not in the per-sample files: {', '.join(verdict.unchecked)}")
    return int(failed)


def _store(options: argparse.Namespace) -> int:
    from fusion_eval.engine.store_command import list_entries, prune, verify_entries

    directory = options.directory or _default_store()
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory")
    if options.action == "list":
        entries = list_entries(directory)
        if not entries:
            print(f"{directory}: no stored results")
        for entry in entries:
            score = f"{entry.primary} {entry.score:.4f}"
            print(f"{entry.path.stem[:12]}  {entry.evaluated_at:%Y-%m-%d %H:%M}  {score}  {entry.label}")
        return 0
    if options.action == "verify":
        problems = verify_entries(directory)
        for path, problem in problems.items():
            print(f"FAILED  {path}: {problem}")
        print(f"{len(list_entries(directory))} results can be read, {len(problems)} cannot")
        return int(bool(problems))
    limits = {"older_than": options.older_than, "unused": options.unused, "max_bytes": options.max_bytes}
    removed = prune(directory, **limits, damaged=options.damaged)
    print(f"removed {len(removed)} results")
    if not options.damaged and all(limit is None for limit in limits.values()):
        print("what to remove is said by --older-than, --unused, --max-bytes and --damaged")
    return 0


def _default_store() -> Path:
    from fusion_eval.config import compose_option

    return Path(compose_option("store", "on")["path"]).expanduser()
