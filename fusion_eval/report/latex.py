"""A leaderboard as a table for a paper."""

from __future__ import annotations

from fusion_eval.report.intervals import Measured
from fusion_eval.report.leaderboard import Entry, Leaderboard
from fusion_eval.report.leaderboard_rows import notes

__all__ = ["latex_table"]

_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex_table(board: Leaderboard) -> str:
    """A booktabs table: the best of each column in bold, ties with the best by significance underlined."""
    columns = ["headline", *board.tasks]
    best = {name: _best(board, name) for name in columns}

    def row(entry: Entry, ranked: bool) -> str:
        cells = [_escape(entry.label)]
        for name in columns:
            measured = entry.headline if name == "headline" else entry.tasks.get(name, Measured(None))
            text = "--" if measured.value is None else f"{measured.value:.4f}"
            if ranked and measured.value is not None and measured.value == best[name]:
                text = rf"\textbf{{{text}}}"
            elif ranked and name == "headline" and entry.tied:
                text = rf"\underline{{{text}}}"
            error = measured.standard_error
            cells.append(text if error is None else rf"{text} {{\scriptsize$\pm${error:.4f}}}")
        return " & ".join(cells) + r" \\"

    lines = [f"% {text}" for text in (*board.warnings, *notes(board))]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}"]
    lines += [r"\toprule", " & ".join(["run", _escape(board.sort), *map(_escape, board.tasks)]) + r" \\", r"\midrule"]
    lines += [row(entry, ranked=False) for entry in board.references]
    lines += [r"\midrule"] if board.references else []
    lines += [row(entry, ranked=True) for entry in board.entries]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _best(board: Leaderboard, name: str) -> float:
    if name == "headline":
        return board.entries[0].headline.value or 0.0
    values = [e.tasks[name].value for e in board.entries if name in e.tasks]
    pick = min if name in board.lower else max
    return pick(value for value in values if value is not None)


def _escape(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
