"""The decoder of a run: the states it is trained on, a given decoder, and a T5."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoded_run import rows
from ka2l.augmentation.decoder import Decoder
from ka2l.common import atomic_files
from ka2l.errors import DegenerateError, Ka2lError
from ka2l.models.interface import Prompt
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import read_signal
from ka2l.pipeline.shared.run_decoder import run_decoder
from ka2l.pipeline.shared.run_probe import read_probe
from runs import RecordingReporter
from tiny_t5 import build_tiny_t5


def test_the_decoder_has_learned_from_the_state_the_probe_judges(decoded: RunDirectory) -> None:
    context = context_of(decoded, RecordingReporter())
    probe, _ = read_probe(context)
    ids, states = read_signal(decoded.file("decoder_states"), "state")
    questions = context.questions_by_id(set(ids))
    assert sorted(ids) == sorted(question.id for question in context.questions("decoder"))
    prompts = [Prompt(i, context.prompts.sensing(questions[i].question)) for i in ids[:3]]
    judged = context.prepared_model().states(prompts, None, position="tbg")[:, probe.layer]
    np.testing.assert_allclose(states[:3].astype(np.float32), judged, rtol=2e-3, atol=2e-3)
    card = atomic_files.read_json(decoded.file("decoder") / "decoder.json")
    assert (card["layer"], card["position"]) == (probe.layer, "tbg")
    assert card["sensing_hash"] == context.prompts.sensing_hash
    assert (card["trained_on"], card["validation"]) == (len(ids) - 4, 4)
    weights = sum(p.stat().st_size for p in decoded.file("decoder").iterdir())
    assert weights < 2_000_000  # the language model is not in it


def test_a_saved_decoder_says_the_same(decoded: RunDirectory, tmp_path: Path) -> None:
    made = run_decoder(context_of(decoded, RecordingReporter()))
    made.save_pretrained(tmp_path / "mine")
    loader = lambda: load_causal_lm(decoded.config.model, resolve(decoded.config.model))  # noqa: E731
    again = Decoder.from_pretrained(str(tmp_path / "mine"), model_loader=loader)
    states = np.stack([made.mean, made.mean + made.scale])
    said = [
        one.decode(states, ["a", "b"], [1, 2], noise=0.5, temperature=1.0, seed=3, max_new_tokens=12)
        for one in (made, again)
    ]
    assert said[0] == said[1]
    with pytest.raises(Ka2lError, match="Give model_loader"):  # the card has no path of this machine
        Decoder.from_pretrained(str(tmp_path / "mine"))


def test_a_decoder_of_another_state_is_refused(decoded: RunDirectory, tmp_path: Path) -> None:
    given = tmp_path / "decoder"
    shutil.copytree(decoded.file("decoder"), given)
    again = RunDirectory.open(decoded.path, [f"decoder.pretrained={given}"])
    mine, its = (
        run_decoder(context_of(decoded, RecordingReporter())),
        run_decoder(context_of(again, RecordingReporter())),
    )
    np.testing.assert_array_equal(mine.mean, its.mean)
    card = atomic_files.read_json(given / "decoder.json")
    for name, value in (("layer", card["layer"] - 1), ("position", "mean_prompt"), ("sensing_hash", "0")):
        atomic_files.write_json(given / "decoder.json", {**card, name: value})
        with pytest.raises(Ka2lError, match=str(given)) as caught:
            run_decoder(context_of(again, RecordingReporter()))
        assert str(value) in str(caught.value)


def test_a_given_probes_worked_examples_make_other_states(decoded: RunDirectory, tmp_path: Path) -> None:
    """The prompt comes with the probe: states read with other examples are not those it judges."""
    keys = []
    for shots in ("hash-1", "hash-2"):
        folder = tmp_path / shots
        shutil.copytree(decoded.file("probe"), folder)
        card = atomic_files.read_json(folder / "probe.json")
        atomic_files.write_json(folder / "probe.json", {**card, "sensing_hash": shots})
        given = RunDirectory.open(decoded.path, [f"map.probe={folder}"])
        keys.append(context_of(given, RecordingReporter()).keys())
    assert keys[0]["decoder_states"] != keys[1]["decoder_states"]


def test_a_given_decoder_takes_the_place_of_training(decoded: RunDirectory, tmp_path: Path) -> None:
    given, folder = tmp_path / "decoder", tmp_path / "run"
    shutil.copytree(decoded.file("decoder"), given)
    shutil.copytree(decoded.path, folder)
    settings = [f"decoder.pretrained={given}"]
    assert run_verb("augment", RunDirectory.open(folder, settings), RecordingReporter()) == [
        "candidates",
        "augment",
    ]
    assert rows(RunDirectory.open(folder)) == rows(decoded)


def test_a_t5_is_taught_without_the_language_model(
    decoded: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's decoder: whole in its folder, trained on stored states alone."""
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    build_tiny_t5(tmp_path / "t5")
    settings = [f"decoder.t5={tmp_path / 't5'}", "decoder.pseudo_tokens=4", "decoder.epochs=2"]
    directory = RunDirectory.open(folder, settings)

    def no_model(*_args: Any) -> Any:
        raise AssertionError("the language model has no part in this")

    monkeypatch.setattr("ka2l.pipeline.shared.run_decoder.load_causal_lm", no_model)
    with pytest.raises(DegenerateError, match="None of the 24 decoded questions is left"):  # it has learned nothing yet
        run_verb("augment", directory, RecordingReporter())
    assert directory.stages["decoder"].facts["kind"] == "t5"
    made = run_decoder(context_of(directory, RecordingReporter()))
    assert made.card["base"] == "t5"  # no path of this machine
    states = np.tile(made.mean, (2, 1))
    one, two = made.decode(states, ["a", "b"], [1], noise=0.0, temperature=0.0, seed=0, max_new_tokens=6)
    assert one == two  # the same state says the same
