"""Values of the report page: runs up to each stage, hostile text, and the check that every page must pass."""

import dataclasses
import json
import math
import random
import re

from ka2l.common.intervals import Interval
from ka2l.evaluation.protocol import ArmEvaluation, Evaluation, Forgotten, Learned, Scores, SetComparison
from ka2l.knowledge.reliability import ReliabilityBin
from ka2l.report.run_page_data import (
    Case,
    LayerScore,
    PerturbedThreshold,
    ReportData,
    ScoreRow,
    StageCost,
)
from page_reader import Page

NAN = float("nan")
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=https://evil.example/x.png onerror='alert(1)'>",
    "]]></style></svg><!-- -->",
    "{{ 7 * 7 }} {% raw %} $\\frac$ &amp;",
    "🦙 قطر \u202eevil\u202c \x00\x1b[31m \ud800",
    "w" * 20_000,
)


def _around(value: float, half: float, n: int) -> Interval:
    return Interval(value, value - half, value + half, n)


def _scores(em: float, n: int) -> Scores:
    half = 1.96 * math.sqrt(em * (1 - em) / n)
    return Scores(_around(em, half, n), _around(em + 0.04, half, n), _around(em + 0.05, half, n), em * 0.7)


def _arm(strategy: str, learned: int, bought: tuple[float, float], held_out: float, forgotten: int) -> ArmEvaluation:
    sets = {
        "held_out": SetComparison(240, _scores(0.45, 240), _scores(0.45 + held_out, 240), _around(held_out, 0.05, 240)),
        "bought": SetComparison(
            100, _scores(bought[0], 100), _scores(bought[1], 100), _around(bought[1] - bought[0], 0.08, 100)
        ),
        "unbought": SetComparison(200, _scores(0.52, 200), _scores(0.55, 200), _around(0.03, 0.045, 200)),
    }
    return ArmEvaluation(
        strategy,
        100,
        0.0,
        sets,
        Learned(87, learned, 100, _around(learned / 100, 0.09, 100)),
        Forgotten(108, forgotten, _around(forgotten / 108, 0.07, 108)),
    )


def evaluation() -> Evaluation:
    """An evaluation with two arms."""
    return Evaluation(
        correct="exact_match",
        base_prompt="sensing",
        base={"sensing": _scores(0.45, 240), "teaching": _scores(0.38, 240)},
        arms={
            "unknown": _arm("unknown", 69, (0.13, 0.83), 0.10, 19),
            "random": _arm("random", 46, (0.43, 0.89), 0.11, 14),
        },
    )


def loaded() -> ReportData:
    """A run that has only loaded its questions."""
    return ReportData(
        title="What the model does not know",
        created="2026-11-04 15:20 UTC",
        version="0.1.0",
        model="SmolLM2-135M-Instruct",
        revision="",
        device="CPU, 2 threads, float32",
        role_counts={"probe": 360, "pool": 600, "eval": 240, "shot": 8},
        duplicates_merged=14,
        sensing_prompt="Answer the following question as briefly as possible.\n\n"
        "Question: What is the capital of France?\nAnswer: Paris\n\nQuestion: {question}\nAnswer:",
        teaching_prompt="Answer the following question as briefly as possible.\n\nQuestion: {question}\nAnswer:",
        config_yaml="preset: default\nseed: 0\nmodel:\n  name: smollm2-135m\nsample:\n  n: 10\n  temperature: 1.0\n",
        libraries={"torch": "2.13.0", "transformers": "5.23.0", "scikit-learn": "1.9.1", "peft": "0.21.2"},
    )


def measured() -> ReportData:
    """A run that has finished `measure`."""
    rng = random.Random(0)
    entropies = [min(max(rng.gauss(0.5 if rng.random() < 0.4 else 1.9, 0.35), 0.0), math.log(10)) for _ in range(360)]
    cases = (
        Case("low", "What is the capital of Norway?", ["Oslo"], 0.0, "Oslo", True, ["Oslo"] * 10, [0] * 10),
        Case(
            "middle",
            "In which country is the city of Gdańsk?",
            ["Poland", "Republic of Poland"],
            0.94,
            "Poland",
            True,
            ["Poland"] * 6 + ["Poland.", "Germany", "Germany", "Russia"],
            [0] * 7 + [1, 1, 2],
        ),
        Case(
            "high",
            "What is the currency of Eswatini?",
            ["Lilangeni"],
            2.16,
            "Eswatini pound",
            False,
            [
                "Rand",
                "Euro",
                "Dollar",
                "Eswatini pound",
                "Peso",
                "Krona",
                "Rand",
                "Franc",
                "Shilling",
                "Dinar",
            ],
            [0, 1, 2, 3, 4, 5, 0, 6, 7, 8],
        ),
        Case(
            "high",
            "In which country is the city of Xai-Xai?",
            [],
            2.3,
            "China",
            None,
            list("abcdefghij"),
            range(10),
        ),
    )
    return dataclasses.replace(
        loaded(),
        n_samples=10,
        entropies=entropies,
        threshold=1.36,
        threshold_rule="two_means",
        greedy_accuracy=_around(0.43, 0.05, 360),
        cases=cases,
        stages=(
            StageCost("load", 0.42, {"questions": 1208}, {}),
            StageCost("sample", 133.4, {"questions": 360, "answers": 3960}, {"prompt": 41_220, "generated": 18_044}),
            StageCost("measure", 2.7, {"questions": 360}, {}),
        ),
    )


def _score_row(name: str, unknown: float | None, wrong: float, p_values: dict[str, float] | None = None) -> ScoreRow:
    """A method with a few metrics; no unknown: it defines that target."""
    metrics = {
        target: {
            "auroc": _around(value, 0.08, 72),
            "auprc": _around(value, 0.1, 72),
            "ece": _around(0.06, 0.04, 72),
        }
        for target, value in (("se_label", unknown), ("wrong_answer", wrong))
        if value is not None
    }
    return ScoreRow(name, metrics, p_values or {})


def full() -> ReportData:
    """A complete run with realistic numbers."""
    rng = random.Random(1)
    layers = [
        LayerScore(layer, kind, height + rng.gauss(0, 0.008), height + rng.gauss(0, 0.008), False)
        for kind, rise in (("linear", 0.38), ("mlp", 0.37))
        for layer in range(0, 31, 3)
        for height in [0.5 + rise * (1 - math.exp(-layer / 8))]
    ]
    layers[9] = dataclasses.replace(layers[9], chosen=True)
    bought = [(f"In which country is the city of Example {i}?", 0.99 - i / 400, "Mozambique") for i in range(40)]
    return dataclasses.replace(
        measured(),
        layers=layers,
        probe_kind="linear",
        probe_layer=27,
        probe_position="tbg",
        probe_auroc=_around(0.868, 0.07, 72),
        scores=(
            _score_row("kept probe (layer 27)", 0.868, 0.81),
            _score_row("MLP probe (layer 27)", 0.861, 0.80, {"se_label": 0.61, "wrong_answer": 0.72}),
            _score_row("semantic entropy", None, 0.83, {"wrong_answer": 0.34}),
            _score_row("negative log-likelihood", 0.79, 0.77, {"se_label": 0.004, "wrong_answer": 0.0006}),
            _score_row("1 − P(True)", 0.54, NAN, {"se_label": 0.0004}),
        ),
        calibration="platt",
        threshold_range=(1.22, 1.61, 0.031),
        n_ambiguous=12,
        reliability=[
            ReliabilityBin(i / 10, (i + 1) / 10, (i + 0.5) / 10, (i + 0.7) / 11, 7, i / 13, (i + 2) / 12)
            for i in range(10)
        ],
        perturbed=[
            PerturbedThreshold(
                delta, 1.36 + delta, round(90 * abs(delta)), _around(0.86 - abs(delta) / 9, 0.05, 72), None
            )
            for delta in (-0.2, -0.05, 0.0, 0.05, 0.2)
        ],
        pca=[(rng.gauss(1.4 * flag, 1), rng.gauss(-0.8 * flag, 1), flag) for flag in [True, False, True] * 120],
        pca_variance=(0.231, 0.112),
        p_unknown=[rng.betavariate(0.7, 0.45) for _ in range(600)],
        n_pool=600,
        n_pool_unknown=392,
        bought={
            "unknown": bought,
            "random": [("What is the capital of Peru?", 0.412, "Lima"), *bought[5:15]],
        },
        evaluation=json.loads(json.dumps(dataclasses.asdict(evaluation()))),
        stages=(
            *measured().stages,
            StageCost("probe", 9.8, {"layers": 31}, {}),
            StageCost("map", 61.0, {"questions": 600}, {"prompt": 68_431}),
            StageCost("finetune", 88.2, {"arms": 2, "steps": 76}, {"trained": 15_220}),
            StageCost("evaluate", 74.0, {"answers": 1320}, {"prompt": 120_220, "generated": 5944}),
        ),
    )


def check(html: str) -> Page:
    """Check what every page must fulfil."""
    html.encode("utf-8")
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert all(value.startswith("#") and value[1:] in page.ids for _, value in page.references)
    loads = re.findall(r"url\(([^)]*)\)", html)
    assert all(target.startswith("#") and target[1:] in page.ids for target in loads)
    assert not set(page.tags) & {"script", "img", "link", "iframe", "object", "form"}
    assert "@import" not in html
    assert "nan" not in re.findall(r"[A-Za-z]+", page.text)
    assert "None" not in page.text
    return page


def with_decoded(learned: int = 51, random_labels: int = 100) -> Evaluation:
    """Two arms; the first has 93 labels for decoded questions."""
    found = evaluation()
    arm, other = found.arms["unknown"], found.arms["random"]
    per_label = Interval((69 + learned) / 193, (69 + learned) / 193 - 0.07, (69 + learned) / 193 + 0.07, 193)
    of_them = Learned(84, learned, 93, Interval(learned / 93, 0.4, 0.7, 93))
    arm = dataclasses.replace(
        arm,
        labels=193,
        learned=Learned(171, 69 + learned, 193, per_label, of_them),
        sets={**arm.sets, "decoded": dataclasses.replace(arm.sets["bought"], n=93)},
    )
    return dataclasses.replace(found, arms={"unknown": arm, "random": dataclasses.replace(other, labels=random_labels)})
