"""`ka2l plan`: what it prints, and what it refuses."""

from pathlib import Path

import pytest

from console import Cli, assert_refused, strict_json
from curve_data import RISING, points
from ka2l.studies.forecast.collect import collect, forecast


def test_the_screen_says_what_the_next_labels_buy(ka2l: Cli, tmp_path: Path) -> None:
    drawing = tmp_path / "curve.svg"
    result = ka2l("plan", points(tmp_path, RISING), "--next", 50, "--target", 0.55, "--price", 2, "--plot", drawing)
    assert (result.code, result.err) == (0, "")
    said = " ".join(result.out.split())
    assert "labels trainings measured ± curve 95 % band 0 base 0.120" in said
    assert "A(B) = " in said
    assert "The next 50 labels should lift the score from 0.5" in said or "The points say only roughly" in said
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
def test_points_that_carry_no_forecast_get_none(ka2l: Cli, tmp_path: Path, rows: str, parts: list[str]) -> None:
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
