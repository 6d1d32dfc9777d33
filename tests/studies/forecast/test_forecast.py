"""`ka2l plan`: points from files, runs and comparisons; what it prints; and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console import Cli, assert_refused, strict_json
from ka2l.common.atomic_files import write_json
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError, DataError, RunError
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.studies.comparison.cell_results import GRID, CellResult, Outcomes, load, save
from ka2l.studies.forecast.collect import collect, forecast
from ka2l.studies.forecast.points_file import Row, read_points

HEADER = "labels,score,strategy,seed,questions\n"
RISING = HEADER + "".join(
    f"{labels},{score},{strategy},{seed},1500\n"
    for strategy, scores in {"unknown": (0.30, 0.42, 0.52), "random": (0.24, 0.33, 0.42)}.items()
    for labels, middle in zip((100, 200, 400), scores, strict=True)
    for seed, score in enumerate((round(middle - 0.005, 3), round(middle + 0.005, 3)))
)
RISING += "0,0.12,,,1500\n"


def points(tmp_path: Path, text: str, name: str = "points.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_of_points_is_read(tmp_path: Path) -> None:
    file = points(tmp_path, "﻿labels, score,seed\n0,0.1,\n\n100,0.25,1\n100,0.27,2\n")
    rows = read_points(file)
    assert rows == [Row(0, 0.1, "", "", None), Row(100, 0.25, "", "1", None), Row(100, 0.27, "", "2", None)]
    plain = [{"labels": 0, "score": 0.1}, {"labels": 100, "score": 0.25, "seed": 1}]
    for name, text in {
        "a.json": json.dumps({"points": plain}),
        "b.json": json.dumps(plain),
        "c.jsonl": "\n".join(map(json.dumps, plain)),
    }.items():
        assert read_points(points(tmp_path, text, name)) == rows[:2]


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("p.csv", "label,score\n1,2\n", ["no column labels", "label,score", "Fix: labels,score"]),
        ("p.csv", "", ["no column labels and no column score"]),
        ("p.csv", "labels,score\n", ["no points"]),
        (
            "p.csv",
            "labels,score\nmany,0.4\n100,63\n-5,0.4\n200,\n300,nan\n",
            [
                "p.csv: 5 bad rows",
                "p.csv:line 2: labels is not a number: 'many'",
                "p.csv:line 3: score is 63, not between 0 and 1; if it is per cent, write 0.63",
                "p.csv:line 4: labels is -5, below 0",
                "p.csv:line 5: no score",
                "p.csv:line 6: score is not a number: 'nan'",
                "Fix: labels is a number from 0",
            ],
        ),
        (
            "p.csv",
            "labels,score\n100,0.4\n100,0.5\n",
            ["p.csv:line 3: the same labels and seed as line 2", "need a column `seed`"],
        ),
        ("p.csv", "labels,score,questions\n1,0.5,0\n", ["questions is 0, below 1"]),
        ("p.json", "{", ["not valid JSON"]),
        ("p.json", '{"x": 1}', ["not a list of points"]),
        ("p.json", "[3]", ["point 1 is not an object"]),
        ("p.jsonl", '{"labels": true, "score": 0.4}', ["line 1: labels is not a number: True"]),
        ("p.txt", "1 2", ["not from '.txt'"]),
    ],
)
def test_bad_files_say_where_and_what_to_do(tmp_path: Path, name: str, text: str, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_points(points(tmp_path, text, name))
    for part in parts:
        assert part in str(caught.value)


def test_the_base_model_is_every_strategys_first_point(tmp_path: Path) -> None:
    found = collect([points(tmp_path, RISING)]).points
    assert list(found) == ["unknown", "random"]
    for own in found.values():
        assert own.budgets.tolist() == [0, 100, 200, 400]
        assert own.scores[0] == 0.12
        assert own.repeats.tolist() == [0, 2, 2, 2]
        assert own.shared[0, 0] == pytest.approx(0.12 * 0.88 / 1500)
    np.testing.assert_allclose(found["random"].scores, [0.12, 0.24, 0.33, 0.42])


def outcomes(right: np.ndarray, base: np.ndarray) -> Outcomes:
    ids = [f"q{i}" for i in range(len(right))]
    zeros = np.zeros(len(right))
    return Outcomes(ids, ids, base, right, zeros, zeros, zeros, 0.0)


def write_comparison(folder: Path) -> np.ndarray:
    """Two policies at two budgets and the whole pool, two seeds; returns which questions the base model had right."""
    rng = np.random.default_rng(1)
    ease = rng.uniform(size=200)
    base = ease < 0.1
    levels = {("unknown", 50): 0.3, ("unknown", 100): 0.42, ("random", 50): 0.2, ("random", 100): 0.3}
    levels |= {("replayed", 50): 0.3, ("full", 400): 0.6}
    for (policy, budget), level in levels.items():
        for seed in range(2):
            held_out = outcomes(ease < level + 0.02 * seed, base)
            replayed = 20 if policy == "replayed" else 0
            sets = {"held_out": held_out, "pool": outcomes(np.ones(200, bool), base)}
            save(
                CellResult(
                    policy, policy, budget, seed, budget - seed, replayed, 2.0 * budget, 1, 1, 1, sets
                ),
                folder / "compare" / f"{policy}-{budget}-{seed}",
            )
    return base


def test_points_of_a_comparison(tmp_path: Path) -> None:
    base = write_comparison(tmp_path)
    found = collect([tmp_path])
    assert set(found.points) == {"unknown", "random", "replayed"}
    unknown = found.points["unknown"]
    assert unknown.budgets.tolist() == [0, 49.5, 99.5, 399.5]  # the whole pool belongs to all who only buy
    assert found.points["replayed"].budgets.tolist() == [0, 49.5]
    assert unknown.scores[0] == base.mean()
    assert unknown.repeats.tolist() == [0, 2, 2, 2]
    # three budgets of its own, two of random and one of replayed, two seeds each: six degrees of freedom
    assert unknown.spread.freedom == 6
    assert unknown.shared[1, 2] > 0
    assert found.price == pytest.approx(2.0, rel=0.01)
    assert collect([tmp_path], "pool").points["random"].scores[-1] == 1.0
    with pytest.raises(ConfigError, match=r"held_out, pool"):
        collect([tmp_path], "train")


def test_cells_of_another_base_model_are_refused(tmp_path: Path) -> None:
    base = write_comparison(tmp_path)
    other = {"held_out": outcomes(base, ~base)}
    save(CellResult("x", "x", 50, 0, 50, 0, 0.0, 1, 1, 1, other), tmp_path / "compare" / "x")
    with pytest.raises(RunError, match="do not start from the same base model"):
        collect([tmp_path])
    with pytest.raises(RunError, match="some cells were not evaluated on pool"):
        collect([tmp_path], "pool")
    other = {"held_out": outcomes(base[:-1], base[:-1])}
    save(CellResult("x", "x", 50, 0, 50, 0, 0.0, 1, 1, 1, other), tmp_path / "compare" / "x")
    with pytest.raises(RunError, match="not evaluated on the same held_out questions"):
        collect([tmp_path])


def write_run(folder: Path, labels: int, score: float, base: float = 0.2, seed: int = 0) -> Path:
    """A run that is nothing but an evaluation."""

    def scored(value: float) -> dict[str, object]:
        return {"exact_match": {"value": value, "low": value - 0.0392, "high": value + 0.0392, "n": 400}}

    difference = {
        "value": score - base,
        "low": score - base - 0.0392,
        "high": score - base + 0.0392,
        "n": 400,
    }
    held_out = {"n": 400, "base": scored(base), "tuned": scored(score), "difference": difference}
    arm = {"strategy": "unknown", "labels": labels, "cost": 3.0 * labels, "sets": {"held_out": held_out}}
    run = RunDirectory(folder, RunConfig(seed=seed), {})
    run.save_config()
    run._save_manifest()
    write_json(folder / "evaluation.json", {"correct": "exact_match", "arms": {"unknown": arm}})
    return folder


def test_points_of_several_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(n), n, 0.2 + n / 1000) for n in (100, 200)]
    runs.append(write_run(tmp_path / "again", 200, 0.44, seed=1))
    found = collect(runs)
    own = found.points["unknown"]
    assert own.budgets.tolist() == [0, 100, 200]
    np.testing.assert_allclose(own.scores, [0.2, 0.3, 0.42])
    assert own.repeats.tolist() == [0, 1, 2]
    # deviations of 0.02 all, and of their difference as well: correlation 1/2
    np.testing.assert_allclose(own.shared, 0.0004 * (0.5 + 0.5 * np.eye(3)), rtol=1e-6)
    assert found.price == 3.0
    other = write_run(tmp_path / "other", 400, 0.5, base=0.3)
    with pytest.raises(RunError, match=r"same base model.*scores 0\.200 of 400.*scores 0\.300 of 400"):
        collect([*runs, other])
    with pytest.raises(ConfigError, match="only a comparison has the score 'pool'"):
        collect(runs, "pool")
    with pytest.raises(ConfigError, match="All sources must be of one kind"):
        collect([runs[0], points(tmp_path, RISING)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="contains neither a comparison nor an evaluation"):
        collect([tmp_path / "empty"])


def test_the_screen_says_what_the_next_labels_buy(ka2l: Cli, tmp_path: Path) -> None:
    drawing = tmp_path / "curve.svg"
    result = ka2l(
        "plan", points(tmp_path, RISING), "--next", 50, "--target", 0.55, "--price", 2, "--plot", drawing
    )
    assert (result.code, result.err) == (0, "")
    said = " ".join(result.out.split())
    assert "labels trainings measured ± curve 95 % band 0 base 0.120" in said
    assert "A(B) = " in said
    assert (
        "The next 50 labels should lift the score from 0.5" in said or "The points say only roughly" in said
    )
    assert "The next 50 labels cost 100.00." in said
    assert "A score of 0.55 takes about" in said
    assert "Go on. Even the lower end of the band" in said or "Unclear. The band holds" in said
    assert "With 450 labels unknown should be highest" in said
    svg = drawing.read_text(encoding="utf-8")
    assert "<svg" in svg
    assert "unknown" in svg


def test_json_has_everything_and_agrees_with_the_fit(ka2l: Cli, tmp_path: Path) -> None:
    file = points(tmp_path, RISING)
    values = strict_json(ka2l("plan", file, "--target", 0.99, "--json").out)
    unknown = values["strategies"]["unknown"]
    assert [point["labels"] for point in unknown["points"]] == [0, 100, 200, 400]
    one = forecast(collect([file]), target=0.99)[0]
    assert one.advice is not None
    assert one.fit is not None
    assert unknown["gain"] == one.advice.gain._asdict()
    assert unknown["curve"]["a_max"] == one.fit.curve.a_max
    assert unknown["target"]["labels"]["high"] is None  # not reached
    assert unknown["cost"] is None
    assert strict_json(ka2l("plan", file, "--target", 0.99, "--json").out) == values


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("100,0.3\n", ["One number of labels is a point, not a curve"]),
        ("0,0.2\n100,0.21\n200,0.19\n", ["No forecast. From 0 to 200 labels the score does not rise", "Nothing says"]),
        ("0,0.5\n100,0.4\n200,0.3\n", ["No forecast. The score fell from 0.500 at 0 labels to 0.300", "Stop."]),
        ("0,0.2\n100,0.3\n", ["The points say only roughly", "These 2 points do not determine"]),
    ],
)  # fmt: skip
def test_points_that_carry_no_forecast_get_none(
    ka2l: Cli, tmp_path: Path, rows: str, parts: list[str]
) -> None:
    result = ka2l("plan", points(tmp_path, "labels,score\n" + rows), "--target", 0.9)
    assert result.code == 0
    said = " ".join(result.out.split())
    for part in parts:
        assert part in said
    assert "should lift the score" not in said
    values = strict_json(ka2l("plan", points(tmp_path, "labels,score\n" + rows), "--json").out)
    assert values["strategies"]["score"]["supported"] is False


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--next", 0, "0 is not a number of labels"),
        ("--target", 80, "80 is not between 0 and 1. For 80 per cent write 0.8"),
        ("--price", -1, "-1 is not a price"),
        ("--least-gain", 1, "1 is not between 0 and 1"),
        ("--score", "best", "'best' is not one of held_out, pool"),
        ("--plot", "curve.pdf", "neither an .svg nor a .png"),
        ("--plot", "/no/such/curve.svg", "/no/such: no such folder"),
    ],
)
def test_bad_options_are_refused(ka2l: Cli, tmp_path: Path, option: str, value: object, part: str) -> None:
    assert_refused(ka2l("plan", points(tmp_path, RISING), option, value), part)


def test_missing_sources_are_refused(ka2l: Cli, tmp_path: Path) -> None:
    assert_refused(ka2l("plan", tmp_path / "none"), "none: no such file or folder")
    assert ka2l("plan").code == 2


def test_the_whole_pool_is_no_point_of_a_policy_that_teaches_in_another_way(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    for folder in (tmp_path / "compare").glob("random-*"):
        save(replace(load(folder), teaching="nine epochs"), folder)
    found = collect([tmp_path])
    assert found.points["unknown"].budgets.tolist() == [0, 49.5, 99.5, 399.5]
    assert found.points["random"].budgets.tolist() == [0, 49.5, 99.5]


def test_only_cells_of_the_last_grid_count(tmp_path: Path) -> None:
    """Those of other settings, or of policies that are no longer compared, may lie beside them."""
    write_comparison(tmp_path)
    cells = tmp_path / "compare" / "cells"
    cells.mkdir()
    for folder in (tmp_path / "compare").glob("*-*-*"):
        folder.rename(cells / folder.name)
    names = ["random-50-0", "random-50-1", "random-100-0"]
    write_json(tmp_path / "compare" / GRID, {"cells": names, "cost_per_label": 3.0})
    found = collect([tmp_path])
    assert found.price == 3.0
    assert set(found.points) == {"random"}
    assert found.points["random"].repeats.tolist() == [0, 2, 1]
