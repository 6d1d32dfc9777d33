"""The closing screen of `ka2l run`, and the line about the sampling that `ka2l sample` prints."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ka2l.cli.run_summary import ProbeSummary, RunSummary, summary
from ka2l.common.intervals import Interval
from ka2l.common.number_format import duration
from ka2l.evaluation.evaluation_json import interval_from
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.table import Table

_OURS = ("unknown", "unknown_diverse")
_REASONS_SHOWN = 3  # reasons for dropping decoded questions; the report has all of them
_REPLAYED = (
    "\n[dim]Known ones taught beside: with the model's own answers, against forgetting; no label is paid for them.[/]"
)
# rows of the table with the share of right answers before and after, by evaluation set
_ACCURACY_ROWS = {
    "right, of the bought": "bought",
    "  asked in other words": "bought_reworded",
    "right, of the new questions": "decoded",
    "right, of those nobody bought": "unbought",
    "right, of the held-out": "held_out",
}


def print_summary(run: RunDirectory) -> None:
    """Print the closing screen."""
    from rich.console import Console
    from rich.markup import escape

    values = summary(run)
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    for line in _knowledge_lines(values):
        console.print(line)
    if values.evaluation is not None:
        evaluated, replayed = values.evaluation.arms, values.evaluation.replayed
        console.print()
        console.print(_arms_table(evaluated, replayed))
        console.print(_conclusion(evaluated))
        console.print(_footnote(evaluated, replayed))
    if values.end is not None:
        console.print(f"\nThe run ends after `{values.end.last}`. {escape(values.end.why)}")
    if "sample" in run.stages:
        console.print(f"\n[dim]{sampling_line(run.stages['sample'])}[/]")
    console.print(
        f"\n{duration(values.seconds, plain=True)} in all. Everything is on one page: [bold]{escape(values.report)}[/]"
    )


def sampling_line(record: StageRecord) -> str:
    """Answers, tokens, speed and memory of the sampling, in one line."""
    tokens = record.tokens
    questions, answers = record.counts.get("questions", 0), record.counts.get("answers", 0)
    parts = [f"{answers:,} answer{'s' * (answers != 1)} to {questions:,} question{'s' * (questions != 1)}"]
    for name, verb in (("prompt", "prompt tokens computed"), ("decoded", "tokens decoded")):
        if tokens.get(name):
            saved = tokens.get(f"{name}_saved", 0)
            parts.append(f"{tokens[name]:,} {verb}{f' ({saved:,} more saved)' if saved else ''}")
    if record.tokens_per_second and tokens.get("decoded"):
        parts.append(f"{record.tokens_per_second:,.0f} tokens a second")
    if record.memory_mb:
        parts.append("at most " + ", ".join(f"{mb:,} MB ({name})" for name, mb in record.memory_mb.items()))
    return f"Sampling: {'; '.join(parts)}."


def decoded_lines(counts: Mapping[str, int]) -> str:
    """The decoded questions in one or two lines.

    Args:
        counts: those of the stage `augment`, and of the decoded questions' labels.
    """
    from ka2l.report.augmentation import reason_title

    kept, candidates = counts["kept"], counts["candidates"]
    line = (
        f"From the states of the {counts['sources']:,} bought questions the decoder made {candidates:,} new ones: "
        f"[bold]{kept:,} {'is' if kept == 1 else 'are'} kept[/] (not asked before, and still unknown, says the probe)."
    )
    if "labels" in counts:
        line += f" {counts['labels']:,} of them {'has' if counts['labels'] == 1 else 'have'} got an answer."
    dropped = {name.removeprefix("dropped_"): n for name, n in counts.items() if name.startswith("dropped_") and n}
    most = sorted(dropped.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]
    if not most:
        return line
    reasons = "; ".join(f"{reason_title(reason)} ({n:,})" for reason, n in most)
    return f"{line}\n[dim]Dropped{', above all' if len(dropped) > len(most) else ''}: {reasons}.[/]"


def arm_name(strategy: str, strategies: Collection[str]) -> str:
    """The name of an arm: "KA2L" if its strategy is the only one of ours, else the strategy."""
    ours = [name for name in strategies if name in _OURS]
    return "KA2L" if ours == [strategy] else strategy


def _knowledge_lines(values: RunSummary) -> Iterator[str]:
    """What the model does not know, how good the probe is, and the decoded questions."""
    from rich.markup import escape

    model = escape(values.model)
    if values.pool is not None and values.pool.unknown is not None:
        share = values.pool.unknown / values.pool.questions
        yield (
            f"[bold]{model} does not know {share:.0%}[/] of the {values.pool.questions:,} questions in the pool "
            f"({values.pool.unknown:,}), says the probe."
        )
    elif values.measured is not None and values.measured.unknown is None:
        yield (
            f"The semantic entropies of {values.measured.questions:,} questions are in entropy.parquet. No threshold "
            "parts known from unknown: threshold.json says why."
        )
    elif values.measured is not None and values.measured.unknown is not None:
        share = values.measured.unknown / values.measured.questions
        yield (
            f"[bold]{model} does not know {share:.0%}[/] of the {values.measured.questions:,} questions it was "
            f"asked ({values.measured.unknown:,}), says semantic entropy."
        )
    if values.probe is not None:
        probe = values.probe
        yield (
            f"The probe ({probe.kind}, {_layer(probe)}) tells unknown from known with "
            f"AUROC {_decimal(probe.auroc['se_label'])}{_wrong_answers(probe)}.\n[dim]AUROC: 0.5 is guessing, 1 is "
            f"perfect.[/]"
        )
    if values.given_probe is not None:
        yield f"That probe was trained before: {escape(values.given_probe)}."
    if values.stand_in is not None:
        yield f"The probe reads the states of {escape(values.stand_in)}, which stands in for {model}."
    if values.augment is not None:
        yield decoded_lines(values.augment)


def _arms_table(evaluated: Mapping[str, Any], replayed: Mapping[str, int]) -> "Table":
    """A column per arm; rows without any value are left out."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    columns = {name: _arm_column(arm, replayed.get(name, 0)) for name, arm in evaluated.items()}
    for name in columns:
        table.add_column(arm_name(name, evaluated), justify="right")
    for title in next(iter(columns.values()), {}):
        cells = [column[title] for column in columns.values()]
        if any(cell != "–" for cell in cells):
            table.add_row(title, *cells)
    return table


def _arm_column(arm: Mapping[str, Any], replayed: int) -> dict[str, str]:
    """The cells of one arm by the titles of the rows, in the order of the rows."""
    learned, forgotten, decoded = arm["learned"], arm["forgotten"], _decoded(arm)
    forgotten_range = _bracket(interval_from(forgotten["share"]), 100, " %")
    return {
        "labels bought": str(arm["labels"]),
        "of them wrong before": str(learned["wrong_before"]),
        "learned": str(learned["learned"]),
        "learned per label": _decimal(learned["per_label"]),
        "known ones taught beside": str(replayed) if replayed else "–",
        "new questions taught": str(decoded["labels"]) if decoded else "–",
        "  learned": str(decoded["learned"]) if decoded else "–",
        **{title: _before_after(arm["sets"].get(name)) for title, name in _ACCURACY_ROWS.items()},
        "forgotten, of the held-out": (f"{forgotten['forgotten']} of {forgotten['right_before']} {forgotten_range}"),
    }


def _conclusion(evaluated: Mapping[str, Any]) -> str:
    """One sentence: facts learned per label in the first arm against the second, and whether the difference is
    clear.
    """
    if len(evaluated) < 2:
        return ""
    (first, a), (second, b) = list(evaluated.items())[:2]
    one, two = (interval_from(arm["learned"]["per_label"]) for arm in (a, b))
    name, second = arm_name(first, evaluated), arm_name(second, evaluated)
    if one.low > two.high or two.low > one.high:
        verb = "more" if one.value > two.value else "less"
        ratio = f", {one.value / two.value:.1f} times as much" if two.value > 0 else ""
        return f"\nA label bought by {name} taught {verb} than one bought by {second}{ratio}.\n"
    return f"\nNo clear difference between what a label bought by {name} and by {second} taught.\n"


def _footnote(evaluated: Mapping[str, Any], replayed: Mapping[str, int]) -> str:
    """What the rows of the table mean."""
    taught = "bought and new" if any(map(_decoded, evaluated.values())) else "bought"
    return (
        f"[dim]Brackets: 95 % bootstrap intervals. Learned: {taught} questions that were wrong before and are right "
        f"now.\n"
        "Forgotten: held-out questions that were right before and are wrong now.[/]"
        + (_REPLAYED if any(replayed.values()) else "")
    )


def _decoded(arm: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an arm's learned questions that was decoded; empty without decoded questions."""
    decoded: dict[str, Any] = arm["learned"].get("decoded") or {}
    return decoded


def _before_after(comparison: Mapping[str, Any] | None) -> str:
    """Share of right answers of base and tuned model."""
    if comparison is None:
        return "–"
    before, after = (interval_from(comparison[side]["exact_match"]).value for side in ("base", "tuned"))
    return f"{before:.0%} → {after:.0%}"


def _wrong_answers(probe: ProbeSummary) -> str:
    """How well the probe distinguishes wrong from right answers; empty if that was not measured."""
    auroc = probe.auroc["wrong_answer"]
    # not measured: no gold answers among the test rows, or all answers right or all wrong
    if auroc is None or auroc["value"] is None:
        return ""
    return f", and wrong from right answers with {_decimal(auroc)}"


def _layer(probe: ProbeSummary) -> str:
    """The layer that a probe reads."""
    return f"layer {probe.layer} of {probe.n_layers}" if probe.layer >= 0 else "of all layers"


def _decimal(value: Any) -> str:
    """A value of JSON with its interval."""
    if value is None:
        return "unknown (no test rows)"
    interval = interval_from(value)
    if interval.value != interval.value:
        return "unknown (the test rows are of one kind)"
    return f"{interval.value:.2f} {_bracket(interval)}".strip()


def _bracket(interval: Interval, scale: float = 1, unit: str = "") -> str:
    """The bounds in brackets; empty if they are NaN."""
    if interval.low != interval.low:
        return ""
    digits = 0 if scale == 100 else 2
    return f"({interval.low * scale:.{digits}f}–{interval.high * scale:.{digits}f}{unit})"
