"""The tables of a comparison: what they say, hostile names, half a grid, and Parquet that reads back."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ka2l.common.curve_statistics import Estimate
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import MEASURES, TESTED, values
from ka2l.studies.comparison.publish import write_tables
from ka2l.studies.comparison.summarize import summarize
from ka2l.studies.comparison.summary import BETTER, Summary
from ka2l.studies.comparison.tables import (
    arm_rows,
    as_json,
    cells_table,
    legend,
    markdown,
    progress_table,
    scores,
    to_target,
    views,
)
from ka2l.studies.comparison.text_tables import View, code_span, markdown_table, prose, text
from ka2l.studies.comparison.wording import difference_text, headline, mean_std, standing_line
from simulated_comparison import cell, grid

HOSTILE = "a|b`c`\n<script>alert(1)</script> [x](http://e.example) \x1b[31m"


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Three policies and the whole pool."""
    return summarize(grid(["random", "unknown", "unknown_diverse"]), resamples=400)


def _renamed(name: str) -> list[CellResult]:
    return [
        dataclasses.replace(one, policy=name) if one.policy == "unknown" else one for one in grid(["random", "unknown"])
    ]


def test_numbers_as_text() -> None:
    assert mean_std(Estimate(0.579, 0.0104, 3), "share") == "57.9 ± 1.0"
    assert mean_std(Estimate(0.579, math.nan, 1), "share") == "57.9"
    assert mean_std(Estimate(0.614, 0.02, 3), "number") == "0.61 ± 0.02"
    assert mean_std(Estimate(1200.0, 0.0, 3), "count") == "1,200"
    assert mean_std(Estimate(62.5, 2.1, 2), "count") == "62.5 ± 2.1"
    assert mean_std(Estimate(75.0, 3.0, 3), "seconds") == "1 min 15 s"
    assert mean_std(Estimate(math.nan, math.nan, 0), "share") == mean_std(None, "share") == "–"


def test_the_table_has_a_row_per_policy_and_budget_and_marks_what_is_clear(summary: Summary) -> None:
    rows = {row[:2]: row[2:] for row in scores(summary).rows}
    assert next(iter(rows)) == ("before teaching", "0")
    assert list(rows)[-1] == ("full", "800")
    assert len(rows) == 1 + 3 * 2 + 1
    for (policy, budget, name), found in summary.differences.items():
        if name in ("held_out", "pool"):
            shown = rows[policy, str(budget)][0 if name == "held_out" else 5]
            assert shown.endswith("*") == (found.verdict == BETTER)
    assert any(cell.endswith("*") for row in rows.values() for cell in row)


def test_markdown_holds_every_number_of_its_tables_and_a_legend(summary: Summary) -> None:
    page = markdown(summary)
    arm = summary.arm("unknown_diverse", 120)
    assert arm is not None
    assert mean_std(arm.measures["held_out"], "share") in page
    assert difference_text(summary.differences["unknown_diverse", 120, "held_out"]).split(" (")[0] in page
    for title in ("Scores, in percent", "Learned and forgotten", "Differences from random", "Costs"):
        assert f"### {title}" in page
    for line in legend(summary):
        assert prose(line) in page
    assert "Holm" in page
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_name_cannot_leave_its_cell() -> None:
    cells = _renamed(HOSTILE)
    page = markdown(summarize(cells, resamples=50))
    for line in page.splitlines():
        if line.startswith("|"):
            outside = re.sub(r"`[^`]*`", "", line)
            assert "<script" not in outside
            assert "\x1b" not in line
    assert "<script" not in re.sub(r"`[^`]*`", "", page)
    assert "[x](http" not in re.sub(r"`[^`]*`", "", page)
    assert code_span("a`b|c") == "`a'b\\|c`"
    assert code_span("") == "` `"
    assert prose("<b> a < b | c") == "&lt;b> a < b \\| c"


def test_wide_characters_keep_the_columns_aligned() -> None:
    view = View("", ("Policy", "x"), (("東京", "1"), ("ab", "22")))
    assert text(view) == "Policy   x\n東京     1\nab      22"
    lines = markdown_table(view).splitlines()
    assert lines[1] == "| :----- | --: |"
    assert lines[2] == "| `東京` |   1 |"


def test_half_a_grid_and_none_still_give_tables() -> None:
    cells = grid(["random", "unknown"])
    for kept in range(0, len(cells), 3):
        summary = summarize(cells[:kept], resamples=50)
        page = markdown(summary)
        assert "nan" not in page.lower()
        json.dumps(as_json(summary), allow_nan=False)
        assert all(len(row) == len(view.columns) for view in views(summary) for row in view.rows)
    assert markdown(summarize([])) == "No cell is finished yet.\n"


def test_the_target_table_says_not_reached() -> None:
    summary = summarize(grid(["random", "unknown"], whole=False), target=0.999, resamples=100)
    assert {row[1] for row in to_target(summary).rows} == {"not reached"}
    assert "No policy reaches the target of 99.9 %" in headline(summary)


def test_the_headline_names_a_winner_only_where_all_three_are_clear() -> None:
    def arms(policy: str, truth: tuple[float, float, float]) -> list[CellResult]:
        return [dataclasses.replace(cell(policy + "x", 120, s, truth), policy=policy) for s in range(3)]

    won = summarize(arms("random", (0.4, 0.05, 0.4)) + arms("good", (0.75, 0.3, 0.01)), resamples=1000)
    assert "good is clearly better than random on all three" in headline(won)
    lost = summarize(arms("random", (0.4, 0.05, 0.4)) + arms("half", (0.75, 0.05, 0.4)), resamples=1000)
    assert headline(lost).startswith("No policy is clearly better than random on all three")
    assert "learned per label: half better" in headline(lost)
    assert "forgetting: no clear difference" in headline(lost)
    assert "no clear difference on held-out questions and forgetting" in standing_line(lost.standings[0], "random")
    alone = headline(summarize(grid(["random", "unknown"], seeds=1), resamples=50))
    assert "whether it differs from random is not tested" in alone
    assert "clearly" not in alone


def test_parquet_is_tidy_and_reads_back(tmp_path: Path, summary: Summary) -> None:
    cells = grid(["random", "unknown", "unknown_diverse"])
    write_tables(summary, cells, tmp_path)
    tidy = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    assert len(tidy) == len(cells) * len(MEASURES)
    found = {(row["policy"], row["budget"], row["seed"], row["measure"]): row["value"] for row in tidy}
    for one in cells:
        for name, value in values(one).items():
            assert found[one.policy, one.budget, one.seed, name] == value
    rows = {(row["policy"], row["budget"]): row for row in pq.read_table(tmp_path / "summary.parquet").to_pylist()}
    assert len(rows) == 7
    tested = summary.differences["unknown", 120, "per_label"]
    assert rows["unknown", 120]["per_label_difference"] == tested.interval.value
    assert rows["unknown", 120]["per_label_p_holm"] == tested.p_holm
    assert rows["random", 120]["per_label_p"] is None
    assert rows["full", 800]["held_out_mean"] == summary.target
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") == markdown(summary)
    assert {f"{name}_verdict" for name in TESTED} <= set(rows["full", 800])
    assert arm_rows(summary)[0]["policy"] == "random"


def test_empty_tables_are_parquet_too(tmp_path: Path) -> None:
    write_tables(summarize([]), [], tmp_path)
    assert pq.read_table(tmp_path / "cells.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "cells.parquet").schema == cells_table(grid(["random"])).schema
    assert pq.read_table(tmp_path / "summary.parquet").num_rows == 0


def test_the_grid_while_it_runs() -> None:
    planned = [(policy, budget, seed) for policy in ("random", "unknown") for budget in (60, 120) for seed in (0, 1)]
    planned.append(("full", 800, 0))
    done = {("random", 60, 0): 0.5238, ("random", 60, 1): math.nan}
    shown = progress_table(planned, done, [("unknown", 60, 0)])
    assert shown.splitlines() == [
        "labels     60     120     800",
        "seed        0  1    0  1    0",
        "random   52.4  –    ·  ·",
        "unknown     …  ·    ·  ·",
        "full                        ·",
        "2 of 9 cells done; held-out right in percent, … running, · waiting",
    ]
    assert "\x1b" not in progress_table([(HOSTILE, 1, 0)], {})
    assert progress_table([], {}).endswith("0 of 0 cells done; held-out right in percent, … running, · waiting")
