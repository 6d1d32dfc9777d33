"""A probe written and read again: folders, the Hub (a real client, a small server), and what is refused."""

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hub_client import TOKEN
from hub_client import hub as hub  # a fixture
from hub_server import HubServer
from ka2l.errors import ModelError
from ka2l.knowledge.probes.probe import Probe

WIDTH, LAYERS, HIDDEN = 6, 4, 5
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "linear": {"mean": (WIDTH,), "scale": (WIDTH,), "weight": (WIDTH,), "bias": (1,)},
    "mlp": {
        "mean": (WIDTH,), "scale": (WIDTH,), "gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN),
        "down": (HIDDEN, WIDTH), "score": (WIDTH, 2), "bias": (2,),
    },
    "mix": {
        "mean": (LAYERS + 1, WIDTH), "scale": (LAYERS + 1, WIDTH), "layers": (LAYERS + 1,),
        "weight": (WIDTH,), "bias": (1,),
    },
}  # fmt: skip
CALIBRATION = {
    "none": {},
    "platt": {"platt": np.array([1.5, -0.2], dtype=np.float32)},
    "isotonic": {
        "isotonic_x": np.array([-2.0, 0.5, 3.0], dtype=np.float32),
        "isotonic_y": np.array([0.1, 0.4, 0.9], dtype=np.float32),
    },
}


def a_probe(kind: str = "linear", calibration: str = "none", seed: int = 0, **changes: Any) -> Probe:
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES[kind].items()}
    weights["scale"] = np.abs(weights["scale"]) + np.float32(0.5)
    weights |= CALIBRATION[calibration]
    return Probe(
        **{
            "kind": kind,
            "layer": -1 if kind == "mix" else 2,
            "weights": weights,
            "calibration": calibration,
            "card": a_card(),
            **changes,
        }
    )


def states(kind: str = "linear") -> np.ndarray:
    shape = (7, LAYERS + 1, WIDTH) if kind == "mix" else (7, WIDTH)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def a_card() -> dict[str, Any]:
    return {
        "model": "acme/tiny", "revision": "abc", "n_layers": LAYERS, "position": "tbg", "sensing_hash": "0123",
        "threshold": {"value": 1.25, "rule": "two_means"}, "split": {"train": 60, "validation": 20, "test": 20},
    }  # fmt: skip


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of the card; None removes one."""
    file = folder / "probe.json"
    card = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


@pytest.mark.parametrize("calibration", list(CALIBRATION))
@pytest.mark.parametrize("kind", list(SHAPES))
def test_what_is_saved_is_read_again_to_the_bit(kind: str, calibration: str, tmp_path: Path) -> None:
    probe = a_probe(kind, calibration, target="correct")
    probe.save_pretrained(tmp_path / "probe")
    read = Probe.from_pretrained(str(tmp_path / "probe"))
    card = read.card
    np.testing.assert_array_equal(read.predict(states(kind)), probe.predict(states(kind)))
    assert read.weights.keys() == probe.weights.keys()
    assert (read.kind, read.layer, read.target, read.calibration) == (
        kind,
        probe.layer,
        "correct",
        calibration,
    )
    assert a_card().items() <= card.items()
    assert card["width"] == WIDTH
    assert sorted(path.name for path in (tmp_path / "probe").iterdir()) == [
        "README.md", "probe.json", "probe.safetensors",
    ]  # fmt: skip


def test_weights_that_are_views_are_written_as_they_read(tmp_path: Path) -> None:
    probe = a_probe("mlp")
    turned = {name: np.asfortranarray(array) for name, array in probe.weights.items()}
    a_probe("mlp", weights=turned).save_pretrained(tmp_path)
    assert {name: array.tolist() for name, array in load_file(tmp_path / "probe.safetensors").items()} == {
        name: array.tolist() for name, array in probe.weights.items()
    }


def test_a_save_that_is_cut_short_leaves_no_probe_rather_than_a_mixed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_probe().save_pretrained(tmp_path)

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("ka2l.knowledge.probes.probe_folder.readme", killed)
    with pytest.raises(KeyboardInterrupt):
        a_probe(seed=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no probe \(probe.json missing\)"):
        Probe.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 2, "ka2l": "9.1"},
            r"format_version is 2, and KA2L .* reads 1. Install KA2L 9.1 or newer",
        ),
        ({"format_version": None}, "format_version is None"),
        ({"kind": "forest"}, "kind is 'forest', and KA2L .* knows linear, mlp, mix"),
        ({"target": "mood"}, "target is 'mood'"),
        ({"calibration": "beta"}, "calibration is 'beta'"),
        ({"layer": "2"}, "layer '2' of 4 does not fit kind linear"),
        ({"layer": 5}, "layer 5 of 4 does not fit"),
        ({"layer": -1}, "layer -1 of 4 does not fit kind linear"),
        ({"kind": "mix"}, "layer 2 of 4 does not fit kind mix"),
        ({"width": 7}, r"mean is float32 \[6\], where a probe of kind linear .* float32 \[7\] \(width\)"),
        ({"kind": "mlp"}, "down is missing; a probe of kind mlp .* has mean, scale, gate"),
        ({"calibration": "platt"}, "platt is missing"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    a_probe().save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ModelError, match=message) as error:
        Probe.from_pretrained(str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("up", np.zeros((WIDTH, HIDDEN + 1), np.float32), r"up is float32 \[6, 6\], .* float32 \[6, 5\]"),
        ("score", np.zeros((WIDTH, 3), np.float32), r"score is float32 \[6, 3\], .* float32 \[6, 2\]"),
        ("gate", np.zeros((WIDTH, HIDDEN), np.float64), r"gate is float64 \[6, 5\]"),
        ("bias", np.zeros((1, 2), np.float32), r"bias is float32 \[1, 2\], .* float32 \[2\]"),
        ("bias", np.array([0, np.nan], np.float32), "bias has values that are not finite"),
        ("extra", np.zeros(1, np.float32), "extra does not belong there"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    probe = a_probe("mlp")
    probe.save_pretrained(tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "probe.safetensors") | {name: array}
    save_file(weights, tmp_path / "whole" / "probe.safetensors")
    with pytest.raises(ModelError, match=message):
        Probe.from_pretrained(str(tmp_path / "whole"))
    with pytest.raises(ModelError, match=message):  # nor are they written
        a_probe("mlp", weights=weights).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_mix_of_other_layers_than_the_model_has_is_refused(tmp_path: Path) -> None:
    a_probe("mix").save_pretrained(tmp_path)
    edit(tmp_path, n_layers=LAYERS + 1)
    with pytest.raises(ModelError, match=r"mean is float32 \[5, 6\], .* float32 \[6, 6\] \(layers, width\)"):
        Probe.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("probe.json", b"{", r"probe.json: not valid JSON"),
        ("probe.json", b"[1]", r"probe.json: a probe's card is a JSON object, not list"),
        ("probe.safetensors", b"\x80\x04K\x01.", r"probe.safetensors: not a safetensors file"),  # a pickle
    ],
)
def test_a_broken_file_is_named(file: str, content: bytes, message: str, tmp_path: Path) -> None:
    a_probe().save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Probe.from_pretrained(str(tmp_path))


def test_a_folder_that_is_no_probe_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no probe \(probe.json and probe.safetensors missing\). `ka2l probe`"):
        Probe.from_pretrained(str(tmp_path))
    a_probe().save_pretrained(tmp_path / "probe")
    with pytest.raises(ModelError, match=rf"Give {tmp_path}/probe"):  # a run's folder
        Probe.from_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="no such folder"):
        Probe.from_pretrained(str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError, match="is a folder, and revision v1 is of the Hub"):
        Probe.from_pretrained(str(tmp_path / "probe"), "v1")


def test_pushed_and_fetched_it_predicts_the_same(hub: HubServer) -> None:
    probe = a_probe("mlp", "platt")
    address = probe.push_to_hub("me/probe", token=TOKEN, private=True, endpoint=hub.url)
    assert address == f"{hub.url}/me/probe"
    assert hub.repositories["me/probe"].private
    _initial, pushed = hub.repositories["me/probe"].branches["main"]  # one commit: nobody meets half a probe
    assert sorted(pushed.files) == ["README.md", "probe.json", "probe.safetensors"]
    assert b"ka2l map DIR --probe me/probe" in pushed.files["README.md"]
    assert TOKEN.encode() not in b"".join(pushed.files.values())
    read = Probe.from_pretrained("me/probe", endpoint=hub.url)
    np.testing.assert_array_equal(read.predict(states()), probe.predict(states()))
    assert read.card["model"] == "acme/tiny"
    assert not any("README" in request for request in hub.requests if request.startswith("GET"))


def test_the_methods_of_a_probe_do_the_same(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    probe = a_probe()
    probe.push_to_hub("probe", token=TOKEN)  # a name alone is under the account of the token
    assert list(hub.repositories) == ["me/probe"]
    Probe.from_pretrained("me/probe").save_pretrained(tmp_path / "copy")
    copy = Probe.from_pretrained(str(tmp_path / "copy"))
    np.testing.assert_array_equal(copy.predict(states()), probe.predict(states()))
    assert copy.card["sensing_hash"] == "0123"


def test_revisions_are_kept_apart(hub: HubServer) -> None:
    old, new = a_probe(seed=1), a_probe(seed=2)
    options: dict[str, Any] = {"token": TOKEN, "endpoint": hub.url}
    address = old.push_to_hub("me/probe", revision="v1", **options)
    assert address.endswith("/me/probe/tree/v1")
    new.push_to_hub("me/probe", commit_message="Better", **options)
    assert hub.repositories["me/probe"].branches["main"][-1].message == "Better"
    commit = hub.repositories["me/probe"].branches["v1"][-1].sha
    for revision, probe in (("v1", old), (commit, old), ("main", new), (None, new)):
        read = Probe.from_pretrained("me/probe", revision, endpoint=hub.url)
        np.testing.assert_array_equal(read.predict(states()), probe.predict(states()))
    with pytest.raises(ModelError, match=r"me/probe at revision v9: .*no such revision"):
        Probe.from_pretrained("me/probe", "v9", endpoint=hub.url)


def test_a_push_while_it_is_fetched_does_not_mix_two_probes(hub: HubServer) -> None:
    options: dict[str, Any] = {"token": TOKEN, "endpoint": hub.url}
    old = a_probe("linear", seed=1)
    old.push_to_hub("me/probe", **options)
    sha = hub.repositories["me/probe"].branches["main"][-1].sha
    Probe.from_pretrained("me/probe", endpoint=hub.url)
    weights = [r for r in hub.requests if r.endswith("probe.safetensors") and r.startswith("GET")]
    assert weights == [f"GET /me/probe/resolve/{sha}/probe.safetensors"]  # the card's commit, not the branch


def test_without_the_hub_the_cache_serves(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    probe = a_probe()
    probe.push_to_hub("me/probe", token=TOKEN, endpoint=hub.url)
    Probe.from_pretrained("me/probe", endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(hub.requests)
    read = Probe.from_pretrained("me/probe", endpoint=hub.url)
    np.testing.assert_array_equal(read.predict(states()), probe.predict(states()))
    with pytest.raises(ModelError, match=r"me/other: .*cannot be reached, and it is not in the cache"):
        Probe.from_pretrained("me/other", endpoint=hub.url)
    with pytest.raises(ModelError, match=r"me/probe: cannot push .*cannot be reached"):
        probe.push_to_hub("me/probe", token=TOKEN, endpoint=hub.url)
    assert len(hub.requests) == seen


def test_a_hub_that_does_not_answer_is_said_so(hub: HubServer) -> None:
    with HubServer() as gone:
        pass
    with pytest.raises(ModelError, match=r"me/probe: .*cannot be reached"):
        Probe.from_pretrained("me/probe", endpoint=gone.url)
    with pytest.raises(ModelError, match=r"me/probe: .*cannot be reached"):
        a_probe().push_to_hub("me/probe", token=TOKEN, endpoint=gone.url)
    assert hub.requests == []


def test_what_is_not_there_is_said_so(hub: HubServer) -> None:
    with pytest.raises(ModelError, match=r"me/nothing: .*no such repository on the Hub, or it is private"):
        Probe.from_pretrained("me/nothing", endpoint=hub.url)
    with pytest.raises(ModelError, match=r"not a Hub id"):
        Probe.from_pretrained("me/no thing", endpoint=hub.url)
    a_probe().push_to_hub("me/model", token=TOKEN, endpoint=hub.url)
    del hub.repositories["me/model"].branches["main"][-1].files["probe.json"]
    with pytest.raises(ModelError, match=r"me/model: cannot load probe.json, .* does not have this file"):
        Probe.from_pretrained("me/model", endpoint=hub.url)


@pytest.mark.parametrize(("status", "message"), [(401, "bad token hf_wrong"), (403, "hf_wrong may only read")])
@pytest.mark.parametrize("path", ["/api/repos/create", "/commit/"])
def test_a_refused_token_is_not_shown(hub: HubServer, status: int, message: str, path: str) -> None:
    hub.token = token = "hf_wrong"  # let it come as far as the path that refuses it
    hub.faults[path] = (status, message)
    with pytest.raises(ModelError, match=r"me/probe: cannot push .*hf auth login") as error:
        a_probe().push_to_hub("me/probe", token=token, endpoint=hub.url)
    assert token not in "".join(traceback.format_exception(error.value))
    assert str(status) in str(error.value)
    assert "me/probe" not in hub.repositories or len(hub.repositories["me/probe"].branches["main"]) == 1


def test_the_login_of_the_client_is_used_and_not_shown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    a_probe().push_to_hub("me/probe", endpoint=hub.url)
    assert "me/probe" in hub.repositories
    hub.faults["/commit/"] = (500, f"no disk for {TOKEN}")
    with pytest.raises(ModelError, match=r"no disk for \*\*\*"):
        a_probe(seed=3).push_to_hub("me/probe", endpoint=hub.url)


def test_a_wrong_token_is_refused(hub: HubServer) -> None:
    with pytest.raises(ModelError, match=r"wants a token that may do this"):
        a_probe().push_to_hub("me/probe", token="hf_other", endpoint=hub.url)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("status", "words"), [(403, "wants a token that may do this"), (500, "the Hub's client failed")]
)
def test_what_the_hub_answers_is_said_and_not_that_it_is_away(hub: HubServer, status: int, words: str) -> None:
    hub.faults["/resolve/"] = (status, "closed for repairs")
    with pytest.raises(ModelError, match=rf"me/probe: .*{words}.*closed for repairs"):
        Probe.from_pretrained("me/probe", endpoint=hub.url)
