"""The tables of scores for unknown questions: every method against both targets, and what the targets are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ka2l.common.intervals import Interval
from ka2l.common.number_format import as_interval
from ka2l.report.run_page_data import ReportData, ScoreRow

TARGETS = {"se_label": "unknown", "wrong_answer": "a wrong answer"}
METRICS = {
    "auprc": "AUPRC",
    "aurc": "AURC",
    "accuracy_at_50": "Right at 50 %",
    "accuracy_at_80": "Right at 80 %",
    "brier": "Brier",
    "ece": "ECE",
}
_TRAINED_ON = {
    "label": "",
    "value": "It was trained on the entropy itself, not on the label.",
    "correct": (
        "It was trained on wrong answers, not on the label, and what it gives is the probability of a wrong one."
    ),
    "both": "It was trained on the mean of the label and wrong answers, and what it gives is an estimate of that.",
}


class MethodView(NamedTuple):
    """One row of the table."""

    name: str
    auroc: Mapping[str, Interval | None]
    """By target."""
    p: Mapping[str, float | None]
    """By target: of the difference from the kept probe."""


class MetricTable(NamedTuple):
    """All metrics against one target."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, list[Interval | None]]]


def views(data: ReportData) -> dict[str, Any]:
    """The template's variables for these tables."""
    kept = next((row for row in data.scores if row.metrics), None)
    return {
        "targets": TARGETS,
        "target_text": _TRAINED_ON.get(data.probe_target, ""),
        "scores": [
            MethodView(
                row.name,
                {target: _metric(row, target, "auroc") for target in TARGETS},
                {target: row.p_values.get(target) for target in TARGETS},
            )
            for row in data.scores
        ],
        "metric_tables": [table for target in TARGETS if (table := _table(data, target)).rows],
        "calibration_error": _metric(kept, _event(data), "ece") if kept is not None else None,
    }


def _event(data: ReportData) -> str:
    """The target whose probability the kept probe predicts."""
    return "wrong_answer" if data.probe_event == "wrong" else "se_label"


def _table(data: ReportData, target: str) -> MetricTable:
    rows = [(row.name, [_metric(row, target, name) for name in METRICS]) for row in data.scores]
    title = f"Telling {TARGETS[target]}"
    return MetricTable(title, tuple(METRICS.values()), [row for row in rows if any(row[1])])


def _metric(row: ScoreRow, target: str, name: str) -> Interval | None:
    return as_interval((row.metrics.get(target) or {}).get(name))
