"""The paper's Table 9 as a fair comparison: every probe and score, both targets, the same test rows, with intervals.

    # DATA holds qa/nq_open.jsonl and qa/triviaqa.jsonl
    python benchmarks/knowledge.py DATA OUT [questions] > tables.md

The embedded model answers GeoNames, NQ-Open and TriviaQA questions (10 samples each); NQ-Open and TriviaQA answers are
judged by the NLI model in DATA/../models/nli-minilm, GeoNames answers by their text. Then the stages `measure` and
`probe` run with all kinds of probes and all baseline scores. It prints Markdown, draws the layer figure (the paper's
Figure 2) to OUT/layers.png, and ends with one JSON line. Runs in OUT continue where they stopped.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ka2l.common.atomic_files import read_json, read_table
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.recipes import load_config
from ka2l.knowledge.score_titles import score_title
from ka2l.pipeline.run import run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.report.score_tables import METRICS

TITLES = {"geonames": "GeoNames", "nq_open": "NQ-Open", "triviaqa": "TriviaQA"}
TARGETS = {"se_label": "unknown", "wrong_answer": "wrong"}
SHOTS = 5
GEONAMES = {
    "capitals": 240,
    "currencies": 200,
    "large_cities": 700,
    "middle_cities": 300,
    "small_cities": 160,
}
LINEAR, MLP = "#4f8fb8", "#d9692b"

Card = dict[str, Any]


def main(data: Path, out: Path, count: int = 1200) -> None:
    """Run what is missing, then print the tables."""
    runs = {name: measured(name, data, out / name, count) for name in TITLES}
    cards = {name: read_json(run.file("probe") / "probe.json") for name, run in runs.items()}
    print("### What was measured\n")
    print(overview(runs, cards))
    print("\n### AUROC (95 % intervals) on test rows; * differs from the kept probe (paired bootstrap, p < 0.05)\n")
    print(aurocs(cards))
    for name, card in cards.items():
        print(f"\n### More than AUROC: {TITLES[name]}\n")
        print(metrics(card))
    print("\n### Moved thresholds (the paper's Table 10): AUROC, trained again at the kept layer\n")
    print(moved(cards))
    draw(
        {name: read_table(run.file("probe") / "layers.parquet").to_pylist() for name, run in runs.items()},
        out,
    )
    summary = {name: _auroc(card, "probe", "se_label") for name, card in cards.items()}
    linear = {f"linear_{name}": _auroc(card, "linear_probe", "se_label") for name, card in cards.items()}
    layer_0 = {f"layer_0_{name}": card["layer_0"]["test_auroc"] for name, card in cards.items()}
    print(json.dumps({"benchmark": "knowledge", "questions": count, **summary, **linear, **layer_0}))


def measured(name: str, data: Path, folder: Path, count: int) -> RunDirectory:
    """A run with everything up to its probe."""
    values: dict[str, Any] = {
        "questions": {
            "source": "geonames" if name == "geonames" else str(data / "qa" / f"{name}.jsonl"),
            "roles": {"probe": count, "pool": 0, "eval": 0},
        },
        "measure": {"scores": ["p_true", "eigenscore", "kernel_entropy"]},
        "probe": {"kinds": ["linear", "ensemble", "mlp", "mix"]},
    }
    if name == "geonames":
        values["questions"]["geonames"] = GEONAMES
    else:
        values["questions"]["limit"] = count + SHOTS
        judge = data.parent / "models" / "nli-minilm"
        values["measure"] |= {"judge": "nli", "nli_model": str(judge)}
    run = RunDirectory.create(folder, with_absolute_paths(load_config(None, [], values)))
    for verb in ("load", "sample", "measure", "probe", "report"):
        run_verb(verb, run)
    return run


def overview(runs: dict[str, RunDirectory], cards: dict[str, Card]) -> str:
    """A column per data set: sizes, accuracy, threshold, the kept probe."""
    rows: dict[str, list[str]] = {}
    for name, run in runs.items():
        table, card = read_table(run.file("entropy.parquet")).to_pydict(), cards[name]
        threshold, split = card["threshold"], card["split"]
        spread = threshold["stability"]
        judged = [value for value in table["correct"] if value is not None]
        counts = run.stages["measure"].counts
        cells = {
            "questions (train / validation / test)": " / ".join(str(split[k]) for k in split),
            "right at low temperature": f"{sum(judged) / len(judged):.0%}",
            "mean semantic entropy": f"{sum(table['semantic_entropy']) / len(table['correct']):.2f}",
            "threshold (95 % of resampled ones)": (
                f"{threshold['value']:.2f} ({spread['low']:.2f}–{spread['high']:.2f})"
            ),
            "labels that flip, on average": f"{spread['flips']:.1%}",
            "unknown": f"{threshold['share_unknown']:.0%}",
            "pairs judged": f"{counts['pairs_judged']:,}" if "pairs_judged" in counts else "–",
            "kept": f"{card['kind']}" + (f", layer {card['layer']}" if card["layer"] >= 0 else ""),
            "layer 0 (must be 0.5)": f"{card['layer_0']['test_auroc']:.2f}",
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    return _table(["", *TITLES.values()], [[title, *cells] for title, cells in rows.items()])


def aurocs(cards: dict[str, Card]) -> str:
    """AUROC of every method, by data set and target."""
    names = list(dict.fromkeys(name for card in cards.values() for name in card["scores"]))
    head = [f"{TITLES[name]}: {title}" for name in cards for title in TARGETS.values()]
    rows = []
    for method in names:
        cells = [_cell((card["scores"].get(method) or {}).get(target)) for card in cards.values() for target in TARGETS]
        rows.append([score_title(method), *cells])
    return _table(["", *head], rows)


def metrics(card: Card) -> str:
    """All metrics of all methods for one data set."""
    head = [f"{title}: {metric}" for title in TARGETS.values() for metric in METRICS.values()]
    rows = []
    for method, targets in card["scores"].items():
        cells = [_value((targets[target] or {}).get(metric)) for target in TARGETS for metric in METRICS]
        rows.append([score_title(method, card["layers"].get(method)), *cells])
    return _table(["", *head], rows)


def moved(cards: dict[str, Card]) -> str:
    """Table 10, with the number of labels that each shift of the threshold changes."""
    rows = []
    for name, card in cards.items():
        cells = [
            f"{_value(row['auroc'])} ({row['relabelled']})" if row["auroc"] else f"– ({row['relabelled']})"
            for row in card["perturbed"]
        ]
        rows.append([TITLES[name], *cells])
    deltas = next(iter(cards.values()))["perturbed"]
    return _table(["(labels changed)", *(f"γ* {row['delta']:+.2f}" if row["delta"] else "γ*" for row in deltas)], rows)


def draw(layers: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Draw the test AUROC by layer, linear and MLP, with a panel per data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.1), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(layers), sharey=True)
    for axes, (name, rows) in zip(panels, layers.items(), strict=True):
        for kind, colour in (("linear", LINEAR), ("mlp", MLP)):
            of_kind = [row for row in rows if row["kind"] == kind]
            x = [row["layer"] for row in of_kind]
            axes.plot(
                x,
                [row["test_auroc"] for row in of_kind],
                "o-",
                ms=3,
                lw=1.4,
                color=colour,
                label=f"{kind}, test",
            )
            axes.plot(
                x,
                [row["validation_auroc"] for row in of_kind],
                "--",
                lw=1,
                color=colour,
                label=f"{kind}, validation",
            )
        for row in rows:
            if row["chosen"] and row["layer"] >= 0:
                axes.plot(row["layer"], row["test_auroc"], "o", ms=11, mfc="none", mec="black", label="kept")
        axes.axhline(0.5, color="grey", lw=0.8, ls=":")
        axes.set(title=TITLES[name], xlabel="layer (0 = embedding)")
        axes.grid(axis="y", alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("AUROC, unknown")
    panels[-1].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(out / "layers.png")


def _cell(scores: dict[str, Any] | None) -> str:
    if scores is None or scores["auroc"]["value"] is None:
        return "–"
    auroc = scores["auroc"]
    p = (scores.get("difference") or {}).get("p")
    star = "*" if p is not None and p < 0.05 else ""
    if auroc["low"] is None:
        return f"{auroc['value']:.2f}{star}"
    return f"{auroc['value']:.2f} ({auroc['low']:.2f}–{auroc['high']:.2f}){star}"


def _value(interval: dict[str, Any] | None) -> str:
    return "–" if interval is None or interval["value"] is None else f"{interval['value']:.3f}"


def _auroc(card: Card, method: str, target: str) -> float | None:
    scores = card["scores"][method][target]
    return None if scores is None else round(scores["auroc"]["value"], 3)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(argument) for argument in sys.argv[3:]))
