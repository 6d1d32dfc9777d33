"""The reliability diagram: numbers in the drawing, in words beside it, and the page's own colours."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from ka2l.knowledge.reliability import ReliabilityBin, reliability_curve
from ka2l.report.reliability_diagram import reliability_diagram
from ka2l.report.svg import KNOWN, UNKNOWN


def curve() -> list[ReliabilityBin]:
    p = np.repeat([0.05, 0.32, 0.94], [10, 40, 20])
    event = np.concatenate([np.zeros(10), np.arange(40) < 10, np.arange(20) < 19]).astype(bool)
    return reliability_curve(p, event)


def drawn_points(drawing: str) -> list[tuple[float, float]]:
    """Centres of the markers, in px."""
    return [
        (float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: #d9', drawing)
    ]


def test_every_bin_is_a_point_at_its_probability_and_rate_and_a_bar_of_its_size() -> None:
    bins = curve()
    drawing = reliability_diagram(bins)
    ElementTree.fromstring(drawing)  # well-formed
    *points, _legend = drawn_points(drawing)
    assert len(points) == 3
    xs, ys = np.array(points).T
    # Both axes are linear: the middle point lies where the outer ones say.
    share = (bins[1].mean_p - bins[0].mean_p) / (bins[2].mean_p - bins[0].mean_p)
    np.testing.assert_allclose(xs[1], xs[0] + share * (xs[2] - xs[0]), atol=0.01)
    share = (bins[1].event_rate - bins[0].event_rate) / (bins[2].event_rate - bins[0].event_rate)
    np.testing.assert_allclose(ys[1], ys[0] + share * (ys[2] - ys[0]), atol=0.01)
    assert ys[2] < ys[0]  # SVG counts from above: the likely is high
    bars = re.findall(
        rf'd="M [\d.]+ ([\d.]+) \nL [\d.]+ [\d.]+ \nL [\d.]+ ([\d.]+) \n[^"]*" [^>]*fill: {KNOWN}', drawing
    )
    heights = [abs(float(bottom) - float(top)) for bottom, top in bars]
    np.testing.assert_allclose(heights, np.array([10, 40, 20]) * heights[0] / 10, rtol=1e-3)
    assert len(re.findall(rf"stroke: {UNKNOWN}; stroke-opacity", drawing)) == 3  # an interval each


def test_who_cannot_see_it_is_told_and_the_page_gives_the_ink() -> None:
    drawing = reliability_diagram(curve(), event="wrong", name="reliability-wrong")
    (label,) = re.findall(r'aria-label="([^"]*)"', drawing)
    said = label.replace("\u00a0", " ")
    assert said.startswith("Reliability of the probability of wrong over 70 questions; predicted 5 %, came 0 % of 10;")
    assert "predicted 32 %, came 25 % of 40" in said
    assert "of them wrong (%)" in drawing
    assert "currentColor" in drawing
    assert "#010203" not in drawing
    assert all(name.startswith("reliability-wrong-") for name in re.findall(r'\sid="([^"]*)"', drawing))
    assert drawing == reliability_diagram(curve(), event="wrong", name="reliability-wrong")


def test_no_rows_give_an_empty_drawing() -> None:
    assert "over 0 questions" in reliability_diagram([])
