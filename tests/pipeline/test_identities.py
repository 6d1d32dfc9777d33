"""What changed models, questions and answers redo: the stages that depend on them and those after them."""

import pytest

from ka2l.pipeline.arms import split_stage
from plans import (
    ALL,
    ANSWERS,
    AUGMENT,
    BOTH_ARMS,
    END,
    IMPORTED,
    MAIN_ARM,
    NEW,
    OUTSIDE,
    TAUGHT_ANEW,
    Known,
    all_stages,
    keys,
    load_config,
)


@pytest.mark.parametrize(
    ("outside", "redone"),
    [
        (OUTSIDE._replace(state="2:tbg"), [*NEW, *TAUGHT_ANEW]),
        (OUTSIDE._replace(decoder="t5@2"), ["decoder", "candidates", "augment", *TAUGHT_ANEW]),
        (OUTSIDE._replace(encoder="minilm@2"), ["augment", *TAUGHT_ANEW]),
    ],
    ids=["layer", "T5", "embeddings"],
)
def test_new_questions_depend_on_the_state_that_was_judged(outside: Known, redone: list[str]) -> None:
    config = load_config(None, AUGMENT)
    before, after = (keys(config, world) for world in (OUTSIDE, outside))
    assert sorted(s for s in after if after[s] != before[s]) == sorted(redone)


def test_other_imported_answers_redo_what_was_made_of_them() -> None:
    config = load_config(None, IMPORTED)
    before, after = (keys(config, world) for world in (OUTSIDE, OUTSIDE._replace(imported="more")))
    assert [stage for stage in after if after[stage] != before[stage]] == ANSWERS[1:]


@pytest.mark.parametrize(
    ("outside", "redone"),
    [
        (OUTSIDE._replace(source="questions-2"), ALL),
        (OUTSIDE._replace(model="tiny@2"), ALL[1:]),
        (OUTSIDE._replace(labels="more"), []),  # gold answers: what people say is not read
        (OUTSIDE._replace(sentences="minilm@2"), []),
    ],
)
def test_a_changed_world_redoes_what_depends_on_it(outside: Known, redone: list[str]) -> None:
    before, after = (keys(load_config(None), world) for world in (OUTSIDE, outside))
    assert sorted(stage for stage in after if after[stage] != before[stage]) == sorted(redone)


@pytest.mark.parametrize(
    ("settings", "redone"),
    [([], []), (["measure.judge=nli"], ALL[2:]), (["measure.judge=llm"], ALL[2:])],
    ids=["lexical", "nli", "llm"],
)
def test_another_judge_redoes_what_it_judged(settings: list[str], redone: list[str]) -> None:
    config = load_config(None, settings)
    before, after = (keys(config, OUTSIDE._replace(judge=judge)) for judge in ("one@1", "one@2"))
    assert sorted(stage for stage in after if after[stage] != before[stage]) == sorted(redone)


def test_a_probe_trained_before_takes_the_place_of_stage_1() -> None:
    config = load_config(None, ["map.probe=somewhere"])
    assert all_stages(config) == ["load", "map", *_by_verb(BOTH_ARMS), *END]
    before, after = (keys(config, OUTSIDE._replace(probe=probe)) for probe in ("one", "other"))
    assert sorted(s for s in after if after[s] != before[s]) == sorted(["map", *BOTH_ARMS, *END])


def test_new_answers_from_people_redo_from_annotate_on() -> None:
    config = load_config(None, ["annotate.annotator=file"])
    before, after = (keys(config, world) for world in (OUTSIDE, OUTSIDE._replace(labels="more")))
    assert [s for s in after if after[s] != before[s]] == ["annotate", "finetune", *END]


@pytest.mark.parametrize(
    ("outside", "redone"),
    [
        (OUTSIDE._replace(sentences="minilm@2"), ["sentences", *MAIN_ARM, *END]),
        (OUTSIDE._replace(probe="other"), ["map", "signals", *BOTH_ARMS, *END]),  # with its worked examples
    ],
    ids=["embeddings", "probe"],
)
def test_signals_depend_on_what_computes_them(outside: Known, redone: list[str]) -> None:
    config = load_config(None, ["select.strategy=badge", "select.space=sentence", "map.probe=somewhere"])
    before, after = (keys(config, world) for world in (OUTSIDE, outside))
    assert sorted(s for s in after if after[s] != before[s]) == sorted(redone)


def _by_verb(stages: list[str]) -> list[str]:
    return sorted(stages, key=lambda stage: MAIN_ARM.index(split_stage(stage)[0]))
