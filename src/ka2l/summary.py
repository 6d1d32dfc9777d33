"""What the command line prints about a run: the closing screen, the plan of a dry run, the environment."""

import json
import platform
import sys
from typing import Any

from ka2l import store
from ka2l.config import RunConfig
from ka2l.evaluation.serialize import interval_from
from ka2l.progress import duration
from ka2l.stages import all_stages
from ka2l.statistics import Interval
from ka2l.store import RunDirectory


def summary(run: RunDirectory) -> dict[str, Any]:
    """The headline numbers as plain values; parts the run has not reached are missing."""
    result: dict[str, Any] = {"run": str(run.path), "model": run.config.model.name}
    if (run.stages.get("map") or store.StageRecord("", "")).state == "done":
        counts = run.stages["map"].counts
        result |= {"pool": counts["questions"], "pool_unknown": counts["unknown"]}
    if (run.file("probe") / "probe.json").exists():
        card = store.read_json(run.file("probe") / "probe.json")
        result["probe"] = {name: card[name] for name in ("kind", "layer", "n_layers")} | card["scores"][
            "probe"
        ]
    if run.file("evaluation.json").exists():
        evaluation = store.read_json(run.file("evaluation.json"))
        result["evaluation"] = evaluation["arms"]
        result["base_prompt"] = evaluation["base_prompt"]
    current = set(all_stages(run.config))
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
            f"[bold]{values['model']} does not know {share:.0%}[/] of the {values['pool']:,} questions in the pool "
            f"({values['pool_unknown']:,}), says the probe."
        )
    if "probe" in values:
        probe = values["probe"]
        console.print(
            f"The probe ({probe['kind']}, layer {probe['layer']} of {probe['n_layers']}) tells unknown from known with "
            f"AUROC {_decimal(probe['se_label'])}{_wrong(probe)}.\n[dim]AUROC: 0.5 is guessing, 1 is perfect.[/]"
        )
    if "evaluation" in values:
        console.print()
        console.print(_arms_table(Table, values["evaluation"]))
        console.print(_conclusion(values["evaluation"]))
        console.print(
            "[dim]Brackets: 95 % bootstrap intervals. Learned: bought questions that were wrong before and are right now.\n"
            "Forgotten: held-out questions that were right before and are wrong now.[/]"
        )
    console.print(
        f"\n{duration(values['seconds'])} in all. Everything is on one page: [bold]{escape(values['report'])}[/]"
    )


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    import os

    import torch

    from ka2l.models.embedded import cache_folder

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **store.library_versions(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": ", ".join(devices) or "none",
        "cache": str(cache_folder()),
    }


def print_plan(config: RunConfig, *, as_json: bool = False) -> None:
    """What `run` would do, without doing it: stages, the first prompt in full, counts, tokens and time."""
    from ka2l.plan import plan

    values = plan(config)
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=1))
        return
    print(
        f"model       {values['model']} ({values['parameters'] / 1e6:,.0f} M parameters, {values['revision']})"
    )
    roles = ", ".join(f"{count:,} {role}" for role, count in values["questions"].items())
    print(f"questions   {roles}; {values['duplicates_merged']} duplicates merged")
    print("\nThe first sensing prompt:\n")
    print("\n".join(f"  | {line}" for line in values["first_prompt"].split("\n")))
    print("\nThe first teaching prompt:\n")
    print("\n".join(f"  | {line}" for line in values["first_teaching_prompt"].split("\n")))
    print(f"\n{'stage':<20}{'questions':>11}{'tokens':>13}{'time':>17}")
    for row in values["stages"]:
        tokens = f"{row['tokens']:,}" if row["tokens"] else "–"
        time = "about " + duration(row["seconds"]) if row["seconds"] else "–"
        print(f"{row['stage']:<20}{row['questions']:>11,}{tokens:>13}{time:>17}")
    print(
        f"{'in all':<20}{'':>11}{values['tokens']:>13,}{'about ' + duration(values['seconds']):>17}\n\n"
        f"Estimates, for answers of {values['answer_tokens']} tokens, and for half of the {values['gflops']:,.0f} GFLOP/s that a matrix\n"
        "product reached here just now. Nothing was written."
    )


def _arms_table(table_class: Any, evaluated: dict[str, Any]) -> Any:
    table = table_class(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    rows: dict[str, list[str]] = {
        "labels bought": [],
        "of them wrong before": [],
        "learned": [],
        "learned per label": [],
        "right, of the bought": [],
        "  asked in other words": [],
        "right, of those nobody bought": [],
        "right, of the held-out": [],
        "forgotten, of the held-out": [],
    }
    sets = {
        "right, of the bought": "bought",
        "  asked in other words": "bought_reworded",
        "right, of those nobody bought": "unbought",
        "right, of the held-out": "held_out",
    }
    for name, arm in evaluated.items():
        table.add_column("KA2L" if name == "unknown" else name, justify="right")
        learned, forgotten = arm["learned"], arm["forgotten"]
        rows["labels bought"].append(str(arm["labels"]))
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
    name = "KA2L" if first == "unknown" else first
    if one.low > two.high or two.low > one.high:
        verb = "more" if one.value > two.value else "less"
        ratio = f", {one.value / two.value:.1f} times as much" if two.value > 0 else ""
        return f"\nA label bought by {name} taught {verb} than one bought by {second}{ratio}.\n"
    return f"\nNo clear difference between what a label bought by {name} and by {second} taught.\n"


def _before_after(comparison: dict[str, Any] | None) -> str:
    if comparison is None:
        return "–"
    before, after = (interval_from(comparison[side]["exact_match"]).value for side in ("base", "tuned"))
    return f"{before:.0%} → {after:.0%}"


def _wrong(probe: dict[str, Any]) -> str:
    if probe["wrong_answer"] is None or probe["wrong_answer"]["value"] is None:
        return ""  # no gold answers among the test rows, or all of them right or all wrong
    return f", and wrong from right answers with {_decimal(probe['wrong_answer'])}"


def _decimal(value: Any) -> str:
    interval = interval_from(value)
    if interval.value != interval.value:
        return "unknown (the test rows are of one kind)"
    return f"{interval.value:.2f} {_bracket(interval)}".strip()


def _bracket(interval: Interval, scale: float = 1, unit: str = "") -> str:
    if interval.low != interval.low:  # NaN: no interval
        return ""
    digits = 0 if scale == 100 else 2
    return f"({interval.low * scale:.{digits}f}–{interval.high * scale:.{digits}f}{unit})"
