"""What a command line may put side by side."""

import pytest

from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError
from ka2l.studies.comparison.policies import parse_policies


def test_strategies_and_named_policies() -> None:
    policies = parse_policies(
        RunConfig(),
        ["unknown", " random", "full"],
        ["careful: select.strategy=unknown finetune.replay=0.5 'select.band=[0.5, 0.9]'"],
    )
    assert [policy.name for policy in policies] == ["unknown", "random", "full", "careful"]
    assert [policy.config.select.strategy for policy in policies] == [
        "unknown",
        "random",
        "random",
        "unknown",
    ]
    careful = policies[-1].config
    assert careful.finetune.replay == 0.5
    assert careful.select.band == (0.5, 0.9)
    own = RunConfig().finetune.replay
    assert own != 0.5
    assert all(policy.config.finetune.replay == own for policy in policies[:-1])


def test_they_start_from_the_recipe() -> None:
    config = RunConfig.model_validate({"seed": 7, "finetune": {"epochs": 9}})
    (policy,) = parse_policies(config, [], ["a: finetune.replay=1"])
    assert (policy.config.seed, policy.config.finetune.epochs) == (7, 9)


@pytest.mark.parametrize(
    ("strategies", "texts", "message"),
    [
        (["unknwon"], [], "no strategy 'unknwon'.*unknown_diverse"),
        ([""], [], "Nothing to compare"),
        (["unknown", "unknown"], [], "called unknown"),
        (["unknown"], ["unknown: finetune.replay=1"], "called unknown"),
        ([], ["finetune.replay=1"], "a policy has the form 'NAME:"),
        ([], ["a/b: finetune.replay=1"], "a policy has the form 'NAME:"),
        ([], ["a-b: finetune.replay=1"], "a policy has the form 'NAME:"),
        ([], ["full: finetune.replay=1"], "a policy has the form 'NAME:"),
        ([], ["a: select.strategy='unknown"], r"--policy a: No closing quotation in .*'unknown"),
        ([], ["a: sample.n=5"], r"a: sample.n=5 cannot differ"),
        ([], ["a: select.budget=5"], r"select.budget=5 cannot differ"),
        ([], ["a: finetune.seed=5"], r"finetune.seed=5 cannot differ"),
        ([], ["a: finetune.replay=-1"], r"finetune.replay"),
        ([], ["a: select.bland=1"], r"select.bland: no such key"),
    ],
)
def test_what_is_refused(strategies: list[str], texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_policies(RunConfig(), strategies, texts)
