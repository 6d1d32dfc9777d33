"""The tables of a comparison: Markdown like the paper's Tables 6–8, Parquet, JSON, and a progress table for the
terminal.

Usage:

    print(markdown(summary))
    print(progress_table(planned, done, running))
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ka2l.common.number_format import MISSING, finite_or_none
from ka2l.studies.comparison.cell_results import CellResult, Place
from ka2l.studies.comparison.measures import MEASURES, TESTED, values
from ka2l.studies.comparison.summary import CRITERIA, WHOLE, Arm, Summary
from ka2l.studies.comparison.text_tables import View, aligned, markdown_table, prose
from ka2l.studies.comparison.wording import (
    MARKS,
    headline,
    how_tested,
    mean_std,
    percent,
    tested_text,
)

if TYPE_CHECKING:
    import pyarrow as pa


SCORES = ("held_out", "f1", "rouge_l", "meteor", "bleu", "pool")
LEARNING = ("labels", "learned", "per_label", "reworded", "forgotten", "gain_held_out", "gain_pool")
COSTS = ("labels", "replayed", "cost", "select_seconds", "finetune_seconds", "evaluate_seconds")
WAITING, RUNNING = "·", "…"
_TEST_PARTS = ("difference", "low", "high", "p", "p_holm")


def views(summary: Summary) -> tuple[View, ...]:
    """All tables that have rows: scores, learned and forgotten, differences, labels to the target, costs."""
    tables = [scores(summary), learning(summary), against(summary), to_target(summary), costs(summary)]
    return tuple(table for table in tables if table.rows)


def scores(summary: Summary) -> View:
    """Held-out metrics and the share right in the pool, in percent, as in the paper's Tables 6–8."""
    before = tuple(percent(summary.base[name]).removesuffix(" %") if name in summary.base else "" for name in SCORES)
    first = [("before teaching", "0", *before)] if summary.arms else []
    return _by_arm("Scores, in percent", summary, SCORES, tuple(first))


def learning(summary: Summary) -> View:
    """What was learned per label and what was forgotten."""
    return _by_arm("Learned and forgotten", summary, LEARNING)


def costs(summary: Summary) -> View:
    """Money and time; the columns `cost` and `replayed` are left out if they are 0 everywhere."""
    left_out = {name for name in ("cost", "replayed") if not any(arm.measures[name].mean or 0 for arm in summary.arms)}
    return _by_arm("Costs", summary, tuple(name for name in COSTS if name not in left_out))


def against(summary: Summary) -> View:
    """Paired differences on the three criteria, and from the whole pool on held-out questions: interval, corrected
    p.
    """
    criteria = [name for name in CRITERIA if any(key[2] == name for key in summary.differences)]
    rows = []
    for arm in sorted(summary.arms, key=lambda arm: arm.budget):
        tests = [summary.differences.get((arm.policy, arm.budget, name)) for name in criteria]
        tests += [summary.from_whole.get((arm.policy, arm.budget))] if summary.from_whole else []
        if any(tests):
            rows.append((arm.policy, f"{arm.budget:,}", *map(tested_text, tests)))
    columns = [MEASURES[name].title for name in criteria]
    columns += ["Held-out, from the whole pool"] if summary.from_whole else []
    return View(
        "Differences" + f" from {summary.reference}" * bool(criteria),
        ("Policy", "Budget", *columns),
        tuple(rows),
    )


def to_target(summary: Summary) -> View:
    """Labels to the target, and the mean of the learning curve."""
    if not summary.labels_to_target:
        return View("", (), ())
    areas = {area.policy: area for area in summary.areas}
    rows = []
    for needed in summary.labels_to_target:
        labels = "not reached" if needed.labels is None else f"{needed.labels:,.0f}"
        share = MISSING if not math.isfinite(needed.share) else f"{100 * needed.share:.0f} %"
        area = areas.get(needed.policy)
        curve = MISSING if area is None or not area.estimate.n else mean_std(area.estimate, "share")
        rows.append((needed.policy, labels if math.isfinite(summary.target) else MISSING, share, curve))
    goal = f"Labels to {percent(summary.target)} held-out" if math.isfinite(summary.target) else "Learning curves"
    columns = ("Policy", "Labels", "Reached in resamples", "Mean of the curve, %")
    return View(goal, columns, tuple(rows))


def legend(summary: Summary) -> tuple[str, ...]:
    """What the tables mean: one line per measure, then how it was tested."""
    seeds = {len(arm.seeds) for arm in summary.arms}
    marks = f"mean ± standard deviation over {max(seeds)} seeds" if max(seeds) > 1 else "one seed, so without a spread"
    marks += " (some cells are not there)" if len(seeds) > 1 else ""
    if summary.differences:
        marks += f"; * clearly better, † clearly worse than {summary.reference}"
    names = [name for name in (*SCORES, "learned", "per_label", "reworded", "forgotten") if name in MEASURES]
    lines = [f"{marks}.", *(f"{MEASURES[name].title}: {MEASURES[name].about}." for name in names)]
    if math.isfinite(summary.target):
        lines.append(
            "Labels to the target: where the line from no label through the budgets first reaches "
            f"{percent(summary.target)} held-out ({summary.target_of}); beside it, how often resampled curves reach it "
            "at all. Mean of the curve: the area under it from no label to the largest budget, divided by its width."
        )
    if summary.differences:
        lines.append(how_tested(summary))
    return tuple(line[:1].upper() + line[1:] for line in lines)


def markdown(summary: Summary) -> str:
    """The whole comparison as Markdown: headline, notes, tables, legend."""
    parts = [prose(headline(summary)), *map(prose, summary.notes)]
    for view in views(summary):
        parts += [f"### {prose(view.title)}", markdown_table(view)]
    if summary.arms:
        parts += ["\n".join(f"- {prose(line)}" for line in legend(summary))]
    return "\n\n".join(parts) + "\n"


def progress_table(planned: Sequence[Place], done: Mapping[Place, float], running: Collection[Place] = ()) -> str:
    """The grid while it runs: a row per policy, a column per budget and seed, the held-out share of finished cells.

    Args:
        planned: every cell, in the order of the grid.
        done: finished cells with their held-out share (0 to 1), NaN without a value.
        running: cells that a process is working on.
    """
    policies = list(dict.fromkeys(policy for policy, _, _ in planned))
    columns = sorted({(budget, seed) for _, budget, seed in planned})
    cells = set(planned)

    def cell(place: Place) -> str:
        if place in done:
            return f"{100 * done[place]:.1f}" if math.isfinite(done[place]) else MISSING
        return (RUNNING if place in running else WAITING) if place in cells else ""

    heads = ["" if at and columns[at - 1][0] == budget else f"{budget:,}" for at, (budget, _) in enumerate(columns)]
    rows = [("labels", *heads), ("seed", *(str(seed) for _, seed in columns))]
    rows += [(policy, *(cell((policy, budget, seed)) for budget, seed in columns)) for policy in policies]
    count = f"{sum(place in done for place in planned)} of {len(planned)} cells done"
    return f"{aligned(rows, 1)}\n{count}; held-out right in percent, {RUNNING} running, {WAITING} waiting"


def cells_table(cells: Sequence[CellResult]) -> "pa.Table":
    """One row per cell and measure: policy, strategy, budget, seed, measure, value (null without a value)."""
    import pyarrow as pa

    rows = [
        (cell.policy, cell.strategy, cell.budget, cell.seed, name, value if math.isfinite(value) else None)
        for cell in sorted(cells, key=lambda cell: (cell.policy, cell.budget, cell.seed))
        for name, value in values(cell).items()
    ]
    types = {
        "policy": pa.string(),
        "strategy": pa.string(),
        "budget": pa.int64(),
        "seed": pa.int64(),
        "measure": pa.string(),
        "value": pa.float64(),
    }
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return pa.table({name: pa.array(column, types[name]) for name, column in zip(types, columns, strict=True)})


def summary_table(summary: Summary) -> "pa.Table":
    """One row per policy and budget: MEASURE_mean, _std; if tested also _difference, _low, _high, _p, _p_holm."""
    import pyarrow as pa

    rows = arm_rows(summary)
    integers, strings = ("budget", "seeds"), ("policy", "strategy")
    columns = {}
    for name in rows[0] if rows else ():
        kind = (
            pa.int64()
            if name in integers
            else pa.string()
            if name in strings or name.endswith("verdict")
            else pa.float64()
        )
        columns[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def arm_rows(summary: Summary) -> list[dict[str, Any]]:
    """The summary as plain rows for Parquet and JSON, one per policy and budget; None without a value."""
    to_reach = {needed.policy: needed.labels for needed in summary.labels_to_target}
    areas = {area.policy: area.estimate.mean for area in summary.areas}
    rows = []
    for arm in summary.arms:
        row: dict[str, Any] = {
            "policy": arm.policy,
            "strategy": arm.strategy,
            "budget": arm.budget,
            "seeds": len(arm.seeds),
        }
        for name, value in arm.measures.items():
            row |= {f"{name}_mean": value.mean, f"{name}_std": value.std}
        for name in TESTED:
            test = summary.differences.get((arm.policy, arm.budget, name))
            numbers = (None,) * 5 if test is None else (*test.interval[:3], test.p, test.p_holm)
            row |= {f"{name}_{part}": number for part, number in zip(_TEST_PARTS, numbers, strict=True)}
            row[f"{name}_verdict"] = None if test is None else test.verdict
        row |= {"labels_to_target": to_reach.get(arm.policy), "mean_of_curve": areas.get(arm.policy)}
        rows.append({name: finite_or_none(value) for name, value in row.items()})
    return rows


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values; None in place of NaN."""
    return {
        "headline": headline(summary),
        "notes": list(summary.notes),
        "reference": summary.reference,
        "base": {name: finite_or_none(value) for name, value in summary.base.items()},
        "target": finite_or_none(summary.target),
        "target_of": summary.target_of,
        "arms": arm_rows(summary),
        "wins_on_all_three": [{"policy": one.policy, "budget": one.budget} for one in summary.winners],
    }


def _by_arm(title: str, summary: Summary, names: Sequence[str], first: tuple[tuple[str, ...], ...] = ()) -> View:
    """A row per arm, sorted by budget, the whole pool last; the `first` rows are on top."""
    # a stable sort keeps the order of the policies
    arms = sorted(summary.arms, key=lambda arm: (arm.policy == WHOLE, arm.budget))
    rows = tuple((arm.policy, f"{arm.budget:,}", *(_marked(summary, arm, name) for name in names)) for arm in arms)
    return View(title, ("Policy", "Budget", *(MEASURES[name].title for name in names)), (*first, *rows))


def _marked(summary: Summary, arm: Arm, name: str) -> str:
    """A measure's mean and spread, with the mark of a clear difference from the reference."""
    test = summary.differences.get((arm.policy, arm.budget, name))
    return mean_std(arm.measures[name], MEASURES[name].unit) + (MARKS.get(test.verdict, "") if test else "")
