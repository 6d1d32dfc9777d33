"""Which stages a configuration needs, in which order, and what each reads."""

import pytest

from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.stage_list import plan_of
from ka2l.selection.select import STRATEGIES
from plans import (
    ANSWERS,
    AUGMENT,
    BLACK_BOX,
    BOTH_ARMS,
    END,
    IMPORTED,
    MAIN_ARM,
    NEW,
    REPLAYED,
    SAMPLED,
    SENSE,
    STAND_IN,
    TAUGHT,
    all_stages,
    load_config,
)


def test_new_questions_come_between_selecting_and_answering() -> None:
    stages = all_stages(load_config(None, AUGMENT))
    assert [s for s in stages if s in (*NEW, "select", "annotate")] == ["select", *NEW, "annotate"]
    given = all_stages(load_config(None, [*AUGMENT, "decoder.pretrained=somewhere"]))
    assert [s for s in given if s in NEW] == ["candidates", "augment"]
    assert not set(NEW) & set(all_stages(load_config(None, ["questions.source=geonames"])))


def test_without_states_a_run_ends_after_measure_and_with_a_stand_in_before_teaching() -> None:
    assert all_stages(load_config(None, BLACK_BOX)) == all_stages(load_config(None, IMPORTED)) == ANSWERS
    assert all_stages(load_config(None, STAND_IN)) == TAUGHT  # and no second arm: nothing would be compared
    assert all_stages(load_config(None, [*BLACK_BOX, "sample.states=same"])) == [
        *SENSE,
        *_by_verb(BOTH_ARMS),
        *END,
    ]


SIGNALS = ["signals", *SAMPLED, "pool_likelihood", "sentences"]


@pytest.mark.parametrize(
    ("settings", "computed"),
    [
        (["unknown"], []),
        (["random", "near_copy=0.9"], []),
        (["unknown", "near_copy=0.9"], []),
        (["unknown", "near_copy=0.9", "space=sentence"], ["sentences"]),
        (["unknown", "space=sentence"], []),
        *((name, ["signals"]) for name in (["entropy"], ["least_confidence"], ["margin"], ["badge"])),
        (["badge", "space=sentence"], ["signals", "sentences"]),
        (["semantic_entropy"], SAMPLED),
        (["likelihood"], ["pool_likelihood"]),
        (["semantic_entropy", "baseline=entropy"], ["signals", *SAMPLED]),
    ],
    ids=lambda values: "-".join(values) or "nothing",
)
def test_strategies_that_read_signals_get_them(settings: list[str], computed: list[str]) -> None:
    config = load_config(None, [f"select.{text}" for text in [f"strategy={settings[0]}", *settings[1:]]])
    stages = all_stages(config)
    assert stages[: len(SENSE) + len(computed) + 1] == [*SENSE, *computed, "select"]
    assert plan_of(config).of_verb("map") == ["map", *computed]
    assert {plan_of(config).stages[stage].verb for stage in computed} <= {"map"}


def test_every_strategy_has_the_stages_of_its_signals() -> None:
    for strategy in STRATEGIES:
        for space in ("state", "sentence"):
            config = load_config(None, [f"select.strategy={strategy}", f"select.space={space}"])
            assert set(plan_of(config).inputs["select"]) <= {"map", *SIGNALS}


def test_without_a_second_strategy_there_is_one_arm() -> None:
    assert all_stages(load_config(None)) == [*SENSE, *_by_verb(BOTH_ARMS), *END]
    assert "select@random" not in all_stages(load_config(None, ["select.strategy=random"]))


def test_what_is_known_is_replayed_between_answering_and_teaching() -> None:
    config = load_config(None, ["finetune.replay=0.5"])
    assert plan_of(config).inputs["finetune@random"] == ["annotate@random", "replay@random"]
    stages = all_stages(config)
    assert [s for s in stages if s.partition("@")[0] in ("annotate", "replay", "finetune")] == [
        *("annotate", "annotate@random"),
        *REPLAYED,
        *("finetune", "finetune@random"),
    ]
    assert plan_of(config).of_verb("annotate") == ["annotate", "annotate@random", *REPLAYED]
    assert plan_of(config).of_verb("finetune") == ["finetune", "finetune@random"]


def _by_verb(stages: list[str]) -> list[str]:
    return sorted(stages, key=lambda stage: MAIN_ARM.index(split_stage(stage)[0]))
