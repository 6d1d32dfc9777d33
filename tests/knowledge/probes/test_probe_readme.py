"""The README of a probe: what it says, what it leaves out, and that its example runs."""

import re
from typing import Any

import numpy as np
import pytest
import yaml

from ka2l.knowledge.probes.probe_readme import readme


def interval(value: float, n: int = 96) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def a_card(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "linear", "layer": 25, "target": "label", "calibration": "platt", "width": 576, "n_layers": 30,
        "model": "acme/tiny-1b", "revision": "4f2a", "position": "tbg", "samples": 10,
        "prompt": {"instruction": "Answer briefly.", "template": "plain", "shots": [["Largest planet?", "Jupiter"]]},
        "threshold": {"value": 1.3634, "rule": "two_means", "judge": "nli", "share_unknown": 0.65},
        "split": {"train": 288, "validation": 96, "test": 96},
        "layers": {"probe": 25},
        "scores": {
            "probe": {
                "se_label": {"auroc": interval(0.87), "aurc": interval(0.21), "ece": interval(0.08)},
                "wrong_answer": {"auroc": interval(0.81, 90)},
            },
            "semantic_entropy": {"se_label": None, "wrong_answer": {"auroc": interval(0.83, 90)}},
        },
    } | changes  # fmt: skip


def front_matter(text: str) -> dict[str, Any]:
    opening, fields, _ = text.split("---\n", 2)
    assert opening == ""
    found: dict[str, Any] = yaml.safe_load(fields)
    return found


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n\n", 1)[1].split("\n## ", 1)[0]


def test_the_hub_reads_its_front_matter() -> None:
    fields = front_matter(readme(a_card()))
    assert fields["library_name"] == "ka2l"
    assert "semantic-entropy" in fields["tags"]
    assert fields["base_model"] == "acme/tiny-1b"
    assert "license" not in fields
    assert front_matter(readme(a_card(license="cc-by-4.0")))["license"] == "cc-by-4.0"


def test_a_folder_of_this_machine_is_nobodys_business() -> None:
    text = readme(a_card(model="/home/ann/models/tiny"))
    assert "/home/ann" not in text
    assert "What `tiny` does not know" in text
    assert "base_model" not in front_matter(text)
    assert "base_model" not in front_matter(readme(a_card(model="smollm2-135m")))
    assert front_matter(readme(a_card(model="smollm2-135m", base_model="acme/own")))["base_model"] == "acme/own"


def test_the_tables_have_every_method_with_interval_and_rows() -> None:
    worth = section(readme(a_card()), "What it is worth")
    unknown, wrong = worth.split("### ")[1:]
    assert unknown.startswith("Telling unknown questions")
    assert "| | AUROC ↑ | AURC ↓ | ECE ↓ | n |" in unknown
    assert "| kept probe (layer 25) | 0.87 (0.82 to 0.92) | 0.21 (0.16 to 0.26) | 0.08 (0.03 to 0.13) | 96 |" in unknown
    assert "semantic entropy" not in unknown
    assert "| semantic entropy | 0.83 (0.78 to 0.88) | 90 |" in wrong
    assert "AURC is the rate" in worth
    assert "free of it" not in worth  # a column that is not there is not explained
    for table in (unknown, wrong):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) == 1


def test_a_value_without_bounds_stands_alone_and_none_is_a_dash() -> None:
    scores = {
        "probe": {"se_label": {"auroc": {"value": 0.5, "low": None, "high": None, "n": 4}, "aurc": None}},
        "a|b": {
            "se_label": {
                "auroc": {"value": None, "low": None, "high": None, "n": 4},
                "aurc": interval(0.2, 4),
            }
        },
    }
    worth = section(readme(a_card(scores=scores)), "What it is worth")
    assert "| kept probe (layer 25) | 0.50 | – | 4 |" in worth
    assert "| a\\|b | – | 0.20 (0.15 to 0.25) | 4 |" in worth


def test_training_and_prompt_are_told() -> None:
    text = readme(a_card())
    told = section(text, "How it was trained")
    assert "answered 10 times" in told
    assert "1.363 nats" in told
    assert "trained on 288 questions" in told
    assert "Answer briefly.\n\nQuestion: Largest planet?\nAnswer: Jupiter\n\nQuestion: …\nAnswer:" in text
    chat = readme(a_card(prompt={**a_card()["prompt"], "template": "chat"}))
    assert "user: Answer briefly.\nLargest planet?\n\nassistant: Jupiter\n\nuser: Answer briefly.\n…" in chat
    fenced = readme(a_card(prompt={"instruction": "```quote```", "shots": []}))
    assert "````text\n```quote```" in fenced  # the fence is longer than what it holds


WARNINGS = (
    "96 test questions are few",
    "not calibrated: 0.8 does not mean four of five",
    "There were no gold answers",
    "stands in for another model",
    "sampled answers disagree",
)


@pytest.mark.parametrize(
    ("changes", "without", "added"),
    [
        ({}, "", ""),
        ({"split": {"test": 3000}}, "test questions are few", ""),
        ({"calibration": "none"}, "", "not calibrated"),
        (
            {"scores": {"probe": {"se_label": {"auroc": interval(0.8)}, "wrong_answer": None}}},
            "",
            "no gold answers",
        ),
        ({"stand_in": True, "answered_by": "big-model"}, "", "stands in"),
        ({"target": "correct"}, "sampled answers disagree", ""),
    ],
)
def test_it_says_where_not_to_trust_it(changes: dict[str, Any], without: str, added: str) -> None:
    limits = section(readme(a_card(**changes)), "Where not to trust it")
    assert "at this revision, under this prompt, at this position" in limits
    for warning in WARNINGS:
        always = warning in (WARNINGS[0], WARNINGS[4])
        expected = bool(added and added in warning) or (always and not (without and without in warning))
        assert (warning in limits) == expected, warning


def test_a_stand_in_is_named_beside_whose_knowledge_it_is() -> None:
    text = readme(a_card(stand_in=True, answered_by="big-model"))
    assert "# What `big-model` does not know" in text
    assert "The answers are those of `big-model`; `acme/tiny-1b` only lends its hidden states" in text
    assert "only lends" not in readme(a_card(answered_by="acme/tiny-1b", stand_in=False))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("value", "likely it is that the model does not know the answer"),
        ("correct", "likely it is that the model answers wrong"),
        ("both", "does not know the answer, or answers wrong"),
    ],
)
def test_it_says_what_is_predicted(target: str, words: str) -> None:
    assert words in readme(a_card(target=target))


def test_a_bare_card_makes_a_readme_all_the_same() -> None:
    bare = {"kind": "mlp", "layer": 3, "target": "label", "calibration": "none"}
    text = readme(bare)
    assert "Nobody knows: it was not scored on test questions." in text
    for missing in ("None", "nan", "## How it was trained", "## The prompt", "base_model"):
        assert missing not in text


@pytest.mark.parametrize(("layer", "kind"), [(1, "linear"), (-1, "mix")])
@pytest.mark.parametrize("position", ["tbg", "mean_prompt"])
def test_the_example_runs(layer: int, kind: str, position: str) -> None:
    import torch

    code = re.findall(
        r"```python\n(.*?)```", readme(a_card(layer=layer, kind=kind, position=position), "me/it"), re.DOTALL
    )[0]
    assert len(code.splitlines()) == (5 if layer == 1 else 6)
    assert 'Probe.from_pretrained("me/it")' in code
    seen = []

    class Probe:
        @staticmethod
        def from_pretrained(name: str) -> "Probe":
            assert name == "me/it"
            return Probe()

        def predict(self, states: np.ndarray) -> None:
            seen.append(states)

    class Output:
        hidden_states = tuple(torch.arange(5.0).view(1, 5, 1) + 10 * layer for layer in range(3))

    names: dict[str, Any] = {"Probe": Probe, "prompt": "x", "first": 1, "last": 3}
    names["tokenizer"] = lambda *_, **options: options
    names["model"] = lambda **_: Output
    exec(code.replace("from ka2l import Probe", ""), names)
    token = 4.0 if position == "tbg" else 1.5  # the last of 0 … 4, or the mean of 1 and 2
    expected = [[10 + token]] if layer == 1 else [[[token], [10 + token], [20 + token]]]
    assert seen[0].tolist() == expected
