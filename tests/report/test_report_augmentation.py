"""The report's section on new questions: what became of them, counted by hand; hostile text; runs that have none."""

import dataclasses
import json
import random
from typing import Any

import pytest

from ka2l.evaluation.evaluation_json import to_json
from ka2l.evaluation.protocol import SetComparison
from ka2l.report import run_figures
from ka2l.report.arms import read_evaluation
from ka2l.report.augmentation import REASONS, copies, still_unknown, view
from ka2l.report.headline import tiles, verdict
from ka2l.report.run_page import render
from ka2l.report.run_page_data import Augmentation, DecodedExample, ReportData
from page_data import HOSTILE, check, full, loaded, with_decoded

NAN = float("nan")
TITLE = "New questions out of hidden states"
SOURCE = "In which country is the city of Xai-Xai?"
EXAMPLES = (
    DecodedExample(SOURCE, SOURCE, 0.3, None, 1.0, False, "source_again"),
    DecodedExample(SOURCE, "In which country is the city of Chibuto?", 0.3, 0.97, 0.72, True, ""),
    DecodedExample("What is the currency of Eswatini?", "What is the currency of Lesotho?", 0.3, 0.8, None, True, ""),
    DecodedExample(SOURCE, "In which country is the city of Shanghai?", 0.3, 0.21, 0.44, False, "known"),
)
REASONS_FOUND = {"not_a_question": 4, "unfinished": 0, "source_again": 130, "in_pool": 166, "near_pool": 7}
REASONS_FOUND |= {"no_answer": 200, "known": 150, "over_budget": 50}


def augmented(**changes: Any) -> Augmentation:
    """800 decoded, 93 kept, every number distinguishable from the others."""
    values: dict[str, Any] = {"kind": "soft_prompt", "layer": 27, "trained_on": 8000, "n_validation": 210}
    values |= {"exact": 0.27, "f1": 0.834, "bleu": 0.712, "sources": 100, "candidates": 800, "kept": 93}
    values |= {"taught": 91, "noise": 0.3, "temperature": 1.0, "reasons": REASONS_FOUND, "distinct": 0.64}
    values |= {"in_decoder_set": 41, "examples": EXAMPLES}
    return Augmentation(**(values | changes))


def page_data(new: Augmentation) -> ReportData:
    return dataclasses.replace(loaded(), augmentation=new)


def text_of(data: ReportData) -> str:
    return " ".join(check(render(data)).text.split())


def test_the_section_counts_what_became_of_every_candidate() -> None:
    text = text_of(page_data(augmented()))
    assert TITLE in text
    assert "The states of 100 bought questions, moved by Gaussian noise of 0.3 standard deviations" in text
    assert "read at temperature 1, gave 800 questions. 93 are kept" in text
    assert "91 of them were answered and taught" in text
    rows = (
        "Decoded800100 %",
        "already in the pool16621 %",
        "the model knows it, says the probe15019 %",
        "Kept9312 %",
    )
    assert [row for row in rows if row not in text] == []
    assert sorted(rows, key=text.index) == list(rows)
    assert "Looked for and not found: broke off before its end." in text
    assert text.count("broke off before its end") == 1  # no row of its own


def test_the_decoder_and_what_it_said_in_numbers() -> None:
    text = text_of(page_data(augmented()))
    for fact in (
        "the language model itself, with LoRA trained on 8,000 questions",
        "layer 27",
        "27 % of 210 questions it has not seen",
        "0.83 BLEU 0.71",
        "Copies38 % 303 are not new",  # 130 + 166 + 7
        "Distinct texts64 % of 800 decoded",
        "Still unknown49 % 143 of 293 with no other fault",  # 93 kept and 50 over the budget, of those and 150 known
        "Recalled44 % 41 of 93 kept",
    ):
        assert fact in text
    other = text_of(page_data(augmented(kind="t5", layer=-1, noise=0.0, temperature=0.0)))
    assert "DecoderT5 trained on" in other
    assert "It readsall layers" in other
    assert "The states of 100 bought questions read greedily, gave 800 questions" in other


def test_every_reason_of_the_filters_has_words_and_copies_are_copies() -> None:
    from ka2l.augmentation import filters

    assert list(REASONS) == list(filters.REASONS)
    every = dict.fromkeys(REASONS, 1)
    assert copies(every) == 9
    assert copies({"known": 5, "no_answer": 7, "unfinished": 2, "twice": 3, "near_kept": 4}) == 7


def test_bars_take_slices_off_the_right_end_and_leave_the_kept() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        dropped = {reason: rng.choice([0, rng.randrange(200)]) for reason in REASONS}
        kept = rng.randrange(1, 100)
        total = sum(dropped.values()) + kept
        first, *slices, last = view(augmented(reasons=dropped, candidates=total, kept=kept)).funnel
        assert (first.start, first.width, last.start) == (0.0, 100.0, 0.0)
        assert [step.n for step in slices] == [n for n in dropped.values() if n]
        end = 100.0
        for step in slices:
            assert step.start + step.width == pytest.approx(end)
            assert step.width == pytest.approx(100 * step.n / total)
            end = step.start
        assert last.width == pytest.approx(end)


def test_counts_that_contradict_each_other_stay_inside_the_page() -> None:
    for new in (augmented(candidates=10, kept=93), augmented(reasons={"known": 5000})):
        for step in view(new).funnel:
            assert 0 <= step.start <= step.start + step.width <= 100
        check(render(page_data(new)))


def test_examples_stand_under_their_source_the_kept_ones_first() -> None:
    first, second = view(augmented()).sources
    assert [(example.question, fate) for example, fate in first.examples] == [
        ("In which country is the city of Chibuto?", "kept"),
        (SOURCE, "the source question again"),
        ("In which country is the city of Shanghai?", "the model knows it, says the probe"),
    ]
    assert (second.question, len(second.examples), second.left_out) == (
        "What is the currency of Eswatini?",
        1,
        0,
    )
    text = text_of(page_data(augmented()))
    assert "the city of Chibuto?0.970.300.72kept" in text
    assert "the city of Xai-Xai?–0.301.00the source question again" in text


def test_long_lists_of_examples_are_cut() -> None:
    many = [DecodedExample(f"s{i}", f"q{i} {j}", 0.3, 0.9, 0.1, True, "") for j in range(9) for i in range(30)]
    sources = view(augmented(examples=many)).sources
    assert [source.question for source in sources] == [f"s{i}" for i in range(8)]
    assert {(len(source.examples), source.left_out) for source in sources} == {(6, 3)}
    text = text_of(page_data(augmented(examples=many)))
    assert text.count("and 3 more") == 8


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_questions_stay_text(text: str) -> None:
    examples = [
        DecodedExample(text, text, 0.3, None, NAN, False, text),
        DecodedExample(text, text, NAN, 0.9, 1.0, True, ""),
    ]
    new = augmented(kind=text, reasons={text: 3, "known": 0}, examples=examples)
    html = render(page_data(new))
    check(html)
    assert "<script" not in html


def test_nothing_decoded_and_nothing_kept_are_dashes() -> None:
    nothing = augmented(candidates=0, kept=0, taught=0, reasons={}, examples=(), in_decoder_set=0, distinct=NAN)
    text = text_of(page_data(dataclasses.replace(nothing, exact=NAN, f1=NAN, bleu=NAN)))
    assert "Copies– " in text
    assert "Distinct texts– " in text
    assert "Examples" not in text
    assert "were answered and taught" not in text
    assert still_unknown(augmented(kept=0, reasons={"known": 7})) == (0, 7)


def test_without_decoded_questions_nothing_of_it_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_figures, "drawn", lambda name, *_, **__: f'<svg aria-label="{name}"></svg>')
    html = render(full())
    for trace in (TITLE, "funnel", "new questions", "New questions", "decoded", "taught,"):
        assert trace not in html


def test_new_questions_stand_in_the_tables_and_the_figure_of_the_evaluation() -> None:
    data = dataclasses.replace(full(), augmentation=augmented(), evaluation=to_json(with_decoded()))
    html = render(data)
    page = check(html)
    text = " ".join(page.text.split())
    assert "KA2L193 93 for new questions" in text
    assert "120 of 171 taught 51 of 84 new" in text
    assert "46 of 87 bought" in text  # the other arm, which has none
    assert "New questions93" in text
    assert "KA2L: New questions" in html  # the figure says what it shows
    assert html.index("What was bought") < html.index(TITLE) < html.index("What teaching it bought")
    assert render(dataclasses.replace(data, evaluation=dataclasses.asdict(with_decoded()))) == html


def test_the_headline_tells_labels_for_new_questions_apart() -> None:
    data = dataclasses.replace(full(), augmentation=augmented())
    clear = read_evaluation(to_json(with_decoded()))
    assert (
        "193 bought labels, 93 of them for decoded questions, taught it 120 new answers (Random: 46 with 100)"
        in verdict(data, clear)
    )
    close = read_evaluation(to_json(with_decoded(learned=25)))
    assert "taught it 94 new answers (per label no clear difference from Random: 46 with 100)" in verdict(data, close)
    shown = {tile.name: tile.figures for tile in tiles(data, clear)}
    assert [(figure.value, figure.note) for figure in shown["New questions"]] == [("93", "of 800 decoded")]
    assert [(figure.value, figure.note, figure.whose) for figure in shown["Labels bought"]] == [
        ("193", "93 for new questions", "KA2L"),
        ("100", "", "Random"),
    ]
    same = {tile.name: tile.figures for tile in tiles(data, read_evaluation(to_json(with_decoded(random_labels=193))))}
    assert [figure.note for figure in same["Labels bought"]] == ["93 for new questions", ""]
    one = dataclasses.replace(with_decoded(), arms={"unknown": with_decoded().arms["unknown"]})
    alone = {tile.name: tile.figures for tile in tiles(data, read_evaluation(json.loads(json.dumps(to_json(one)))))}
    assert [(figure.value, figure.note) for figure in alone["Labels bought"]] == [("193", "93 for new questions")]


def test_the_set_of_new_questions_comes_before_the_pool() -> None:
    found = with_decoded()
    arm = found.arms["unknown"]
    shuffled: dict[str, SetComparison] = dict(sorted(arm.sets.items(), reverse=True))
    found = dataclasses.replace(found, arms={"unknown": dataclasses.replace(arm, sets=shuffled)})
    assert [row.name for row in read_evaluation(to_json(found)).arms[0].sets] == [
        "held_out",
        "bought",
        "decoded",
        "unbought",
    ]
