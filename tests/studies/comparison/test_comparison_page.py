"""The page of a comparison: whole, half and empty grids, hostile names; nothing loaded, same bytes."""

import dataclasses
import re

import pytest

from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.comparison_page import StrategiesPage, render_comparison
from ka2l.studies.comparison.summarize import summarize
from page_reader import Page
from simulated_comparison import grid

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=https://evil.example/x.png onerror='alert(1)'>",
    "]]></style></svg><!-- -->",
    "{{ 7 * 7 }} {% raw %} $\\frac$ &amp;",
    "🦙 قطر \u202eevil\u202c \x00\x1b[31m \ud800",
    "w" * 5_000,
    "",
)
SECTIONS = (
    "Learning curves",
    "Differences from random",
    "Scores, in percent",
    "Learned and forgotten",
    "Costs",
    "What the numbers mean",
    "How this was made",
)


def page(cells: list[CellResult], **other: object) -> str:
    """The page of these cells."""
    data = StrategiesPage(
        title="Which questions to buy",
        created="2026-11-08 12:00 UTC",
        version="0.6.0",
        model="SmolLM2-135M-Instruct",
        summary=summarize(cells, resamples=100),
    )
    return render_comparison(dataclasses.replace(data, **other))  # type: ignore[arg-type]


def _checked(html: str) -> Page:
    reader = Page(html)
    assert not {"script", "img", "iframe", "link", "object"} & set(reader.tags)
    assert len(set(reader.ids)) == len(reader.ids)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        assert name != "src"
        assert name not in ("href", "xlink:href") or value.startswith("#")
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)
    html.encode("utf-8")
    return reader


def test_a_whole_grid_has_every_section_and_the_same_bytes() -> None:
    html = page(
        grid(),
        planned=57,
        settings={"Right by": "exact match"},
        policies={"replay": "select.strategy=unknown finetune.replay=1"},
        config_yaml="seed: 0\n",
    )
    reader = _checked(html)
    for title in SECTIONS:
        assert f">{title}</h2>" in html
    assert reader.tags.count("svg") == 4 + 3
    assert "57 of 57" in html
    assert "cells are finished" not in html
    assert html == page(
        grid()[::-1],
        planned=57,
        settings={"Right by": "exact match"},
        policies={"replay": "select.strategy=unknown finetune.replay=1"},
        config_yaml="seed: 0\n",
    )
    assert "text.parse" not in html
    assert len(html) < 400_000


def test_numbers_stand_on_the_page_with_the_verdict_of_their_test() -> None:
    cells = grid(["random", "unknown_diverse"])
    summary = summarize(cells, resamples=100)
    arm = summary.arm("unknown_diverse", 120)
    assert arm is not None
    html = page(cells)
    value = f"{100 * arm.measures['held_out'].mean:.1f}"
    assert f'<span class="is-better">{value}*</span> <small>± ' in html
    assert "METEOR (exact, stem)" in html


@pytest.mark.parametrize("kept", [0, 1, 4, 8])
def test_a_grid_half_done_renders_and_says_so(kept: int) -> None:
    html = page(grid(["random", "unknown"])[:kept], planned=15)
    _checked(html)
    assert f"{kept} of 15 cells are finished" in html
    assert ("Learning curves" in html) == (kept > 0)
    assert ("Differences from random" in html) == (kept > 7)


def test_cells_without_a_set_or_an_answer_render() -> None:
    bare = [dataclasses.replace(one, sets={}) for one in grid(["random", "unknown"])]
    html = page(bare)
    _checked(html)
    assert "Nothing is evaluated on held-out questions yet." in html
    only = [dataclasses.replace(one, sets={"held_out": one.sets["held_out"]}) for one in grid(["random", "unknown"])]
    _checked(page(only))


@pytest.mark.filterwarnings("ignore:Glyph .* missing")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text: str) -> None:
    cells = [
        dataclasses.replace(one, policy=text, strategy=text) if one.policy == "unknown" else one
        for one in grid(["random", "unknown"], whole=False)
    ]
    html = page(
        cells,
        title=text,
        model=text,
        device=text,
        settings={text: text},
        policies={text: text},
        config_yaml=text,
    )
    _checked(html)
    assert "<script>alert" not in html
    assert "\x00" not in html
    assert "{{ 7" not in text or "{{ 7 * 7 }}" in html
    assert "w" * 300 not in html.replace(f"<pre>{text}</pre>", "")


def test_more_policies_than_marks_still_have_a_line_each() -> None:
    cells = grid(["random"], whole=False)
    for number in range(14):
        cells += [dataclasses.replace(one, policy=f"p{number:02d}") for one in cells[:6]]
    html = page(cells)
    _checked(html)
    assert "p13" in html
