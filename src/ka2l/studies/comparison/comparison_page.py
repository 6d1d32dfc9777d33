"""The page of a comparison of query strategies: one self-contained file like the report, no script, no network access.

    Path("compare.html").write_text(render_comparison(StrategiesPage(summary=summarize(cells), …)), encoding="utf-8")

Names of policies, models and settings are untrusted input: the template escapes every string.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ka2l.common import number_format
from ka2l.common.curve_statistics import Estimate
from ka2l.report.headline import Figure, Tile
from ka2l.studies.comparison import comparison_figures, tables, wording
from ka2l.studies.comparison.measures import MEASURES
from ka2l.studies.comparison.summary import CRITERIA, WHOLE, Arm, Summary
from ka2l.studies.comparison.text_tables import View

_CELL = re.compile(r"^(?P<value>.*?)(?P<note> ± .*?| \(.*\))?(?P<mark>[*†]?)$", re.DOTALL)
_MARKED = {mark: verdict for verdict, mark in wording.MARKS.items()}


@dataclass(frozen=True, slots=True)
class StrategiesPage:
    """Everything on the page.

    `planned` is the number of cells in the grid (0: as many as are finished), `settings` what all cells share (name →
    value as text), `policies` the settings behind each policy's name.
    """

    title: str
    created: str
    version: str
    model: str
    summary: Summary
    planned: int = 0
    device: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str = ""


class CellView(NamedTuple):
    """A number of a table, the small text beside it, and the verdict that its mark stands for."""

    value: str
    note: str
    mark: str
    verdict: str


class Group(NamedTuple):
    """Rows of a table with the same budget."""

    title: str
    rows: tuple[tuple[str, tuple[CellView, ...]], ...]


class TableView(NamedTuple):
    """A table of the page; the budget is the title of a group of rows instead of a column."""

    title: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]


def render_comparison(data: StrategiesPage) -> str:
    """Render the page; the same data gives the same bytes. Parts without a value are left out.

    Returns:
        A complete HTML document, to be written as UTF-8.
    """
    from markupsafe import Markup

    from ka2l.report.run_page import environment

    summary = data.summary
    curves = [comparison_figures.learning_curve(summary, name) for name in comparison_figures.CURVES]
    forest = [comparison_figures.differences(summary, name) for name in CRITERIA]
    done = sum(len(arm.seeds) for arm in summary.arms)
    html = (
        environment()
        .get_template("strategies.html")
        .render(
            data=data,
            summary=summary,
            headline=wording.headline(summary),
            tiles=_tiles(summary),
            done=done,
            planned=max(data.planned, done),
            legend=comparison_figures.legend(summary),
            curves=[Markup(svg) for svg in curves if svg],
            forest=[Markup(svg) for svg in forest if svg],
            explained=_explained(summary),
            tested=wording.how_tested(summary) if summary.differences or summary.from_whole else "",
            scores=table(tables.scores(summary)),
            learning=table(tables.learning(summary)),
            against=table(tables.against(summary)),
            to_target=table(tables.to_target(summary)),
            costs=table(tables.costs(summary)),
            target=wording.percent(summary.target) if math.isfinite(summary.target) else "",
            whole=WHOLE,
        )
    )
    return number_format.clean(html)


def table(view: View) -> TableView | None:
    """A table of text in the layout of the page; None without rows."""
    if not view.rows:
        return None
    by_budget = len(view.columns) > 1 and view.columns[1] == "Budget"
    first = 2 if by_budget else 1
    groups: dict[str, list[tuple[str, tuple[CellView, ...]]]] = {}
    for row in view.rows:
        title = _budget_title(row) if by_budget else ""
        groups.setdefault(title, []).append((row[0], tuple(_cell(text) for text in row[first:])))
    return TableView(
        view.title, view.columns[first:], tuple(Group(title, tuple(rows)) for title, rows in groups.items())
    )


def _budget_title(row: tuple[str, ...]) -> str:
    if row[1] == "0":
        return "No labels"
    return f"{row[1]} labels" + (", the whole pool" if row[0] == WHOLE else "")


def _cell(text: str) -> CellView:
    match = _CELL.match(text)
    value, note, mark = match.group("value", "note", "mark") if match else (text, "", "")
    return CellView(value, (note or "").strip().strip("()"), mark, _MARKED.get(mark, ""))


def _tiles(summary: Summary) -> list[Tile]:
    """Held-out scores at the largest budget: the highest, random, before fine-tuning, the whole pool."""
    budget = max(summary.budgets, default=0)
    scored = [arm for arm in summary.arms if _held_out(arm).n]
    largest = [arm for arm in scored if arm.budget == budget and arm.policy != WHOLE]
    tiles = []
    if largest:
        best = max(largest, key=lambda arm: _held_out(arm).mean)
        tiles.append(_tile(f"Highest held-out, {budget:,} labels", _held_out(best), best.policy))
    reference = summary.arm(summary.reference, budget)
    if reference is not None and _held_out(reference).n:
        name = f"{summary.reference.capitalize()}, {budget:,} labels"
        tiles.append(_tile(name, _held_out(reference), "held-out"))
    if math.isfinite(summary.base["held_out"]):
        tiles.append(_tile("Before teaching", Estimate(summary.base["held_out"], math.nan, 1), "held-out"))
    whole = next((arm for arm in scored if arm.policy == WHOLE), None)
    if whole is not None:
        tiles.append(_tile(f"Whole pool, {whole.budget:,} labels", _held_out(whole), "held-out"))
    return tiles


def _tile(name: str, value: Estimate, note: str) -> Tile:
    spread = f", ± {100 * value.std:.1f} over {value.n} seeds" if math.isfinite(value.std) else ""
    return Tile(name, (Figure(number_format.percent(value.mean, 1), number_format.shorten(note, 40) + spread),))


def _held_out(arm: Arm) -> Estimate:
    return arm.measures["held_out"]


def _explained(summary: Summary) -> dict[str, str]:
    """The measures on the page, each with the sentence that explains it."""
    if not summary.arms:
        return {}
    names = dict.fromkeys((*tables.SCORES, *tables.LEARNING, *tables.COSTS))
    return {MEASURES[name].title: f"{MEASURES[name].about[:1].upper()}{MEASURES[name].about[1:]}." for name in names}
