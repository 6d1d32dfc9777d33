"""The report: whole and partial runs, hostile text, missing numbers; nothing loaded, nothing clashing, same bytes."""

import dataclasses
import json
import re
from typing import Any

import pytest

from ka2l.common import number_format
from ka2l.common.intervals import Interval
from ka2l.evaluation.evaluation_json import to_json
from ka2l.report import reliability_diagram, run_figures
from ka2l.report.arms import read_evaluation
from ka2l.report.headline import verdict
from ka2l.report.run_page import render
from ka2l.report.run_page_data import Case, ReportData, ScoreRow, StageCost
from page_data import (
    HOSTILE,
    NAN,
    check,
    evaluation,
    full,
    loaded,
    measured,
)

SECTIONS = (
    "What the model does not know",
    "How well can it be seen",
    "The map",
    "What was bought",
    "What teaching it bought",
    "Costs",
    "How this was made",
)


def test_a_whole_run_shows_every_section() -> None:
    page = check(render(full()))
    for title in SECTIONS:
        assert title in page.text
    assert "65\u00a0% of the 600 pool questions" in page.text
    assert "100 bought labels taught it 69 new answers (against 46 with Random)" in page.text
    assert "no clear difference" in page.text
    assert "0.80 to 0.94, n = 72" in page.text
    assert "2\u00a0min 13\u00a0s" in page.text
    assert "+10.0 points (+5.0 to +15.0, n = 240)" in page.text
    assert page.text.index("Low entropy") < page.text.index("Middle entropy") < page.text.index("High entropy")
    assert {"svg", "table", "details"} <= set(page.tags)


def test_answers_stand_by_cluster_with_their_counts() -> None:
    text = " ".join(check(render(measured())).text.split())
    assert "7Poland ×6 / Poland. 2Germany 1Russia" in text
    assert "✓ right" in text
    assert "✗ wrong" in text
    assert "not judged" in text
    assert "none given" in text


@pytest.mark.parametrize(("data", "shown"), [(loaded(), SECTIONS[6:]), (measured(), (SECTIONS[0], *SECTIONS[5:]))])
def test_a_part_of_a_run_leaves_the_rest_out(data: ReportData, shown: tuple[str, ...]) -> None:
    html = render(data)
    check(html)
    assert tuple(re.findall(r"<h2>(.*?)</h2>", html)) == shown


def test_a_loaded_run_claims_nothing() -> None:
    assert verdict(loaded(), None).endswith("has not been measured yet.")
    assert "svg" not in check(render(loaded())).tags


def test_every_optional_field_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run_figures, reliability_diagram):
        monkeypatch.setattr(module, "drawn", lambda name, *_, **__: f'<svg aria-label="{name}"></svg>')
    for field in dataclasses.fields(ReportData):
        if field.default is not dataclasses.MISSING:
            check(render(dataclasses.replace(full(), **{field.name: field.default})))


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    data = full()
    case = Case(text, text, [text], 1.0, text, False, [text] * 10, range(10))
    arms = dataclasses.asdict(evaluation())["arms"]
    strings: dict[str, Any] = dict.fromkeys(("title", "created", "version", "model", "revision", "device"), text)
    strings |= dict.fromkeys(("sensing_prompt", "teaching_prompt", "config_yaml", "probe_kind", "threshold_rule"), text)
    hostile = dataclasses.replace(
        data,
        **strings,
        cases=(case,),
        layers=[dataclasses.replace(row, kind=text) for row in data.layers],
        scores=(ScoreRow(text, {}),),
        calibration=text,
        given_probe=text,
        bought={text: [(text, 0.5, text)]},
        stages=(StageCost(text, 1.0, {text: 1}, {text: 2}),),
        libraries={text: text},
        role_counts={text: 3},
        evaluation={
            "correct": text,
            "base_prompt": text,
            "base": {text: {}},
            "arms": {text: arms["unknown"]},
        },
    )
    html = render(hostile)
    page = check(html)
    assert number_format.shorten(text)[:20] in " ".join(page.text.split())
    assert len(html) < len(render(data)) + 60 * max(len(text), 2000)


def test_missing_numbers_are_dashes() -> None:
    def blanked(value: object) -> object:
        if isinstance(value, dict):
            return {key: blanked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [None, None, None, value[3]]
        return None if isinstance(value, float) else value

    data = full()
    nulls = blanked(data.evaluation)
    assert isinstance(nulls, dict)
    check(render(dataclasses.replace(data, evaluation=nulls)))
    nothing = Interval(NAN, NAN, NAN, 0)
    layers = [dataclasses.replace(row, validation_auroc=NAN, test_auroc=NAN) for row in data.layers]
    scores = [dataclasses.replace(row, metrics={"se_label": {"auroc": nothing}}) for row in data.scores]
    empty = dataclasses.replace(data, layers=layers, scores=scores, probe_auroc=nothing, greedy_accuracy=nothing)
    check(render(empty))
    check(render(dataclasses.replace(data, p_unknown=[NAN], entropies=[NAN], threshold=NAN, pca=[(NAN, 0.0, True)])))


def test_before_and_after_json_are_the_same() -> None:
    data = full()
    page = render(data)
    assert render(dataclasses.replace(data, evaluation=dataclasses.asdict(evaluation()))) == page
    written = json.loads(json.dumps(to_json(evaluation()), allow_nan=False))
    assert render(dataclasses.replace(data, evaluation=written)) == page


def test_same_data_same_bytes() -> None:
    assert render(full()) == render(full())


def test_overlapping_arms_are_no_clear_difference() -> None:
    close = dataclasses.replace(
        evaluation(), arms={"unknown": evaluation().arms["unknown"], "badge": evaluation().arms["unknown"]}
    )
    sentence = verdict(full(), read_evaluation(dataclasses.asdict(close)))
    assert "(no clear difference from 69 with BADGE)" in sentence


def test_numbers_in_words() -> None:
    assert number_format.percent(0.0004) == "<\u00a00.1\u00a0%"
    assert number_format.percent(0.9999) == ">\u00a099.9\u00a0%"
    assert number_format.percent(0.004) == "0.4\u00a0%"
    assert number_format.percent(1.0) == "100\u00a0%"
    assert [number_format.duration(s) for s in (0.42, 59.7, 133, 3661)] == [
        "0.4\u00a0s",
        "1\u00a0min 0\u00a0s",
        "2\u00a0min 13\u00a0s",
        "1\u00a0h 1\u00a0min",
    ]
    assert number_format.points(-0.034) == "−3.4"
    assert [number_format.signed(x) for x in (0.05, -0.2, 0.0)] == ["+0.05", "−0.20", "0.00"]
    assert [number_format.p_value(p) for p in (0.0004, 0.034, 0.61, None)] == ["< 0.001", "0.034", "0.61", ""]
    assert number_format.as_interval([None, 0.1, 0.2, 5]) is None
    assert number_format.difference_verdict(Interval(0.1, -0.01, 0.2, 9)) == "no clear difference"
    assert number_format.difference_verdict(Interval(0.1, 0.01, 0.2, 9)) == "better"
    assert number_format.difference_verdict(Interval(0.1, NAN, NAN, 1)) == "not measurable"
