"""What the command line prints about a run: the closing screen, and the environment. What comes before is in `preview`."""

import json
import platform
import sys
from collections.abc import Collection
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.intervals import Interval
from ka2l.common.number_format import duration
from ka2l.config.run_limits import answered_by, has_stand_in, limit
from ka2l.evaluation.evaluation_json import interval_from
from ka2l.pipeline.arms import arm_stage, arms, strategy_of
from ka2l.pipeline.manifest import StageRecord, library_versions
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_graph import all_stages

_OURS = ("unknown", "unknown_diverse")
_REASONS_SHOWN = 3  # why decoded questions were dropped; all are in the report


_REPLAYED = "\n[dim]Known ones taught beside: with the model's own answers, against forgetting; no label is paid for them.[/]"


def summary(run: RunDirectory) -> dict[str, Any]:
    """The headline numbers as plain values; parts the run has not reached are missing."""
    config = run.config
    result: dict[str, Any] = {"run": str(run.path), "model": answered_by(config)}
    if has_stand_in(config):
        result["stand_in"] = config.model.name
    # What an earlier config has left behind is not part of this run.
    current = set(all_stages(config))
    done = {name for name in current if name in run.stages and run.stages[name].state == "done"}
    if "sample" in done:
        record = run.stages["sample"]
        result["sampling"] = {**record.counts, **record.tokens, "tokens_per_second": record.tokens_per_second}
        result["sampling"]["memory_mb"] = record.memory_mb
    if "measure" in done:
        counts = run.stages["measure"].counts
        result |= {"measured": counts["questions"], "measured_unknown": counts.get("unknown")}
    if "map" in done:
        counts = run.stages["map"].counts
        result |= {"pool": counts["questions"], "pool_unknown": counts["unknown"]}
        result |= {"given_probe": config.map.probe} if config.map.probe else {}
    if "probe" in done and (run.file("probe") / "probe.json").exists():
        card = atomic_files.read_json(run.file("probe") / "probe.json")
        result["probe"] = {name: card[name] for name in ("kind", "layer", "n_layers", "target")}
        result["probe"] |= {
            target: found and found["auroc"] for target, found in card["scores"]["probe"].items()
        }
    if "augment" in done:
        result["augment"] = dict(run.stages["augment"].counts)
        answered = run.stages["annotate"].counts if "annotate" in done else {}
        found = {
            name.removeprefix("decoded_"): n for name, n in answered.items() if name.startswith("decoded_")
        }
        result["augment"] |= found
    if "evaluate" in done and run.file("evaluation.json").exists():
        evaluation = atomic_files.read_json(run.file("evaluation.json"))
        result["evaluation"] = evaluation["arms"]
        stages = {strategy_of(config, arm): arm_stage("finetune", arm) for arm in arms(config)}
        taught = {name: run.stages[stage].counts for name, stage in stages.items() if stage in run.stages}
        result["replayed"] = {name: counts.get("replayed", 0) for name, counts in taught.items()}
        result["base_prompt"] = evaluation["base_prompt"]
    end = limit(config)
    if end is not None:
        result |= {"ends_after": end.last, "why": end.why}
    result["seconds"] = round(sum(r.seconds for name, r in run.stages.items() if name in current), 1)
    result["report"] = str(run.file("report.html"))
    return result


def print_summary(run: RunDirectory) -> None:
    """The closing screen."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    values = summary(run)
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    if "pool" in values:
        share = values["pool_unknown"] / values["pool"]
        console.print(
            f"[bold]{escape(values['model'])} does not know {share:.0%}[/] of the {values['pool']:,} questions in the pool "
            f"({values['pool_unknown']:,}), says the probe."
        )
    elif "measured" in values and values["measured_unknown"] is None:
        console.print(
            f"The semantic entropies of {values['measured']:,} questions are in entropy.parquet. No threshold parts known "
            "from unknown: threshold.json says why."
        )
    elif "measured" in values:
        share = values["measured_unknown"] / values["measured"]
        console.print(
            f"[bold]{escape(values['model'])} does not know {share:.0%}[/] of the {values['measured']:,} questions it was "
            f"asked ({values['measured_unknown']:,}), says semantic entropy."
        )
    if "probe" in values:
        probe = values["probe"]
        console.print(
            f"The probe ({probe['kind']}, {_place(probe)}) tells unknown from known with "
            f"AUROC {_decimal(probe['se_label'])}{_wrong(probe)}.\n[dim]AUROC: 0.5 is guessing, 1 is perfect.[/]"
        )
    if "given_probe" in values:
        console.print(f"That probe was trained before: {escape(values['given_probe'])}.")
    if "stand_in" in values:
        console.print(
            f"The probe reads the states of {escape(values['stand_in'])}, which stands in for {escape(values['model'])}."
        )
    if "augment" in values:
        console.print(decoded_lines(values["augment"]))
    if "evaluation" in values:
        console.print()
        console.print(_arms_table(Table, values["evaluation"], values["replayed"]))
        console.print(_conclusion(values["evaluation"]))
        taught = "bought and new" if any(map(_decoded, values["evaluation"].values())) else "bought"
        console.print(
            f"[dim]Brackets: 95 % bootstrap intervals. Learned: {taught} questions that were wrong before and are right now.\n"
            "Forgotten: held-out questions that were right before and are wrong now.[/]"
            + (_REPLAYED if any(values["replayed"].values()) else "")
        )
    if "ends_after" in values:
        console.print(f"\nThe run ends after `{values['ends_after']}`. {escape(values['why'])}")
    if "sample" in run.stages:
        console.print(f"\n[dim]{sampling_line(run.stages['sample'])}[/]")
    console.print(
        f"\n{duration(values['seconds'], plain=True)} in all. Everything is on one page: [bold]{escape(values['report'])}[/]"
    )


def sampling_line(record: StageRecord) -> str:
    """What asking has cost, in one line."""
    tokens = record.tokens
    asked, given = record.counts.get("questions", 0), record.counts.get("answers", 0)
    parts = [f"{given:,} answer{'s' * (given != 1)} to {asked:,} question{'s' * (asked != 1)}"]
    for name, verb in (("prompt", "prompt tokens computed"), ("decoded", "tokens decoded")):
        if tokens.get(name):
            saved = tokens.get(f"{name}_saved", 0)
            parts.append(f"{tokens[name]:,} {verb}{f' ({saved:,} more saved)' if saved else ''}")
    if record.tokens_per_second and tokens.get("decoded"):
        parts.append(f"{record.tokens_per_second:,.0f} tokens a second")
    if record.memory_mb:
        parts.append("at most " + ", ".join(f"{mb:,} MB ({name})" for name, mb in record.memory_mb.items()))
    return f"Sampling: {'; '.join(parts)}."


def decoded_lines(counts: dict[str, int]) -> str:
    """What came out of the hidden states, in one line or two: `counts` of the stage `augment`, and of the answers."""
    from ka2l.report.augmentation import reason_title

    kept, candidates = counts["kept"], counts["candidates"]
    line = (
        f"From the states of the {counts['sources']:,} bought questions the decoder made {candidates:,} new ones: "
        f"[bold]{kept:,} {'is' if kept == 1 else 'are'} kept[/] (not asked before, and still unknown, says the probe)."
    )
    if "labels" in counts:
        line += f" {counts['labels']:,} of them {'has' if counts['labels'] == 1 else 'have'} got an answer."
    dropped = {
        name.removeprefix("dropped_"): n for name, n in counts.items() if name.startswith("dropped_") and n
    }
    most = sorted(dropped.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]
    if not most:
        return line
    reasons = "; ".join(f"{reason_title(reason)} ({n:,})" for reason, n in most)
    return f"{line}\n[dim]Dropped{', above all' if len(dropped) > len(most) else ''}: {reasons}.[/]"


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    import os

    import torch

    from ka2l.models.embedded_model import cache_folder

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **library_versions(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": ", ".join(devices) or "none",
        "cache": str(cache_folder()),
    }


def print_json(values: Any) -> None:
    """Values for programs."""
    print(json.dumps(values, ensure_ascii=False, indent=1))


def print_values(values: dict[str, Any], *, as_json: bool) -> None:
    """One name and value a line, or JSON."""
    if as_json:
        print_json(values)
        return
    width = max(len(name) for name in values) + 2
    for name, value in values.items():
        print(f"{name + ':':<{width}} {value}")


def arm_name(strategy: str, arms: Collection[str]) -> str:
    """How an arm is called: KA2L where it is the only one of ours, else by its strategy."""
    ours = [name for name in arms if name in _OURS]
    return "KA2L" if ours == [strategy] else strategy


def _arms_table(table_class: Any, evaluated: dict[str, Any], replayed: dict[str, int]) -> Any:
    table = table_class(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    rows: dict[str, list[str]] = {
        "labels bought": [],
        "of them wrong before": [],
        "learned": [],
        "learned per label": [],
        "known ones taught beside": [],
        "new questions taught": [],
        "  learned": [],
        "right, of the bought": [],
        "  asked in other words": [],
        "right, of the new questions": [],
        "right, of those nobody bought": [],
        "right, of the held-out": [],
        "forgotten, of the held-out": [],
    }
    sets = {
        "right, of the bought": "bought",
        "  asked in other words": "bought_reworded",
        "right, of the new questions": "decoded",
        "right, of those nobody bought": "unbought",
        "right, of the held-out": "held_out",
    }
    for name, arm in evaluated.items():
        table.add_column(arm_name(name, evaluated), justify="right")
        learned, forgotten = arm["learned"], arm["forgotten"]
        rows["labels bought"].append(str(arm["labels"]))
        rows["known ones taught beside"].append(str(replayed[name]) if replayed.get(name) else "–")
        decoded = _decoded(arm)
        rows["new questions taught"].append(str(decoded["labels"]) if decoded else "–")
        rows["  learned"].append(str(decoded["learned"]) if decoded else "–")
        rows["of them wrong before"].append(str(learned["wrong_before"]))
        rows["learned"].append(str(learned["learned"]))
        rows["learned per label"].append(_decimal(learned["per_label"]))
        for title, key in sets.items():
            rows[title].append(_before_after(arm["sets"].get(key)))
        rows["forgotten, of the held-out"].append(
            f"{forgotten['forgotten']} of {forgotten['right_before']} {_bracket(interval_from(forgotten['share']), 100, ' %')}"
        )
    for title, cells in rows.items():
        if any(cell != "–" for cell in cells):
            table.add_row(title, *cells)
    return table


def _conclusion(evaluated: dict[str, Any]) -> str:
    """One sentence: what a label was worth in the first arm against the second, and whether that is clear."""
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


def _decoded(arm: dict[str, Any]) -> dict[str, Any]:
    """What was learned of the decoded questions among the taught ones; empty where there are none."""
    found: dict[str, Any] = arm["learned"].get("decoded") or {}
    return found


def _before_after(comparison: dict[str, Any] | None) -> str:
    if comparison is None:
        return "–"
    before, after = (interval_from(comparison[side]["exact_match"]).value for side in ("base", "tuned"))
    return f"{before:.0%} → {after:.0%}"


def _wrong(probe: dict[str, Any]) -> str:
    if probe["wrong_answer"] is None or probe["wrong_answer"]["value"] is None:
        return ""  # no gold answers among the test rows, or all of them right or all wrong
    return f", and wrong from right answers with {_decimal(probe['wrong_answer'])}"


def _place(probe: dict[str, Any]) -> str:
    """Which layer a probe reads."""
    return f"layer {probe['layer']} of {probe['n_layers']}" if probe["layer"] >= 0 else "of all layers"


def _decimal(value: Any) -> str:
    if value is None:
        return "unknown (no test rows)"
    interval = interval_from(value)
    if interval.value != interval.value:
        return "unknown (the test rows are of one kind)"
    return f"{interval.value:.2f} {_bracket(interval)}".strip()


def _bracket(interval: Interval, scale: float = 1, unit: str = "") -> str:
    if interval.low != interval.low:  # NaN: no interval
        return ""
    digits = 0 if scale == 100 else 2
    return f"({interval.low * scale:.{digits}f}–{interval.high * scale:.{digits}f}{unit})"
