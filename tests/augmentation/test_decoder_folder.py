"""A decoder written and read again: folders, the Hub (a real client, a small server), its README, and what is
refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from hub_client import hub as hub  # a fixture
from hub_server import HubServer
from ka2l.augmentation import decoder_folder
from ka2l.augmentation.decoder import Decoder
from ka2l.augmentation.decoder_card_checks import check_fits
from ka2l.augmentation.decoder_folder import fingerprint, load_card
from ka2l.augmentation.decoder_readme import readme
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.t5 import T5Network, load_t5
from ka2l.errors import ModelError, RunError
from toy_network import language_model, toy_tokenizer

WIDTH = 6
TOKEN = "hf_secret"
SETTINGS = DecoderConfig(soft_tokens=2, pseudo_tokens=3, lora_rank=2, t5="/home/ann/t5", pretrained="x")
IDS = ["q1", "q2", "q3"]
WANTED = {"model": "acme/tiny", "revision": "abc", "layer": 2, "position": "tbg", "sensing_hash": "0123"}


def a_card(**changes: Any) -> dict[str, Any]:
    return {
        **WANTED, "settings": SETTINGS.model_dump(mode="json"), "base": "acme/tiny", "trained_on": 19800,
        "validation": 200, "quality": {"exact": 0.455, "f1": 0.7123, "bleu": 0.6, "n": 200}, "seconds": 2013.0,
        "history": [
            {"step": step, "f1": 0.6, "exact": exact, "held_out_loss": 1.0}
            for step, exact in ((100, 0.3), (200, 0.4), (1300, 0.35))
        ],
        "prompt": {"instruction": "Answer briefly.", "template": "plain", "shots": [["Largest planet?", "Jupiter"]]},
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return toy_tokenizer()


@pytest.fixture(scope="module")
def t5_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        pad_token_id=2, eos_token_id=0, decoder_start_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def trained(network: Any, card: dict[str, Any]) -> Decoder:
    """Every weight moved away from where it begins."""
    generator = torch.Generator().manual_seed(9)
    for parameter in network.parameters().values():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    rng = np.random.default_rng(3)
    mean, scale = rng.normal(size=WIDTH), rng.uniform(0.5, 2, size=WIDTH)
    return Decoder(network, mean.astype(np.float32), scale.astype(np.float32), card)


def soft(tokenizer: Any, **changes: Any) -> Decoder:
    return trained(SoftPromptNetwork(*language_model(tokenizer), WIDTH, SETTINGS, seed=0), a_card(**changes))


@pytest.fixture(scope="module")
def soft_decoder(tokenizer: Any) -> Decoder:
    return soft(tokenizer)


@pytest.fixture(scope="module")
def t5_decoder(t5_folder: Path) -> Decoder:
    network = T5Network(*load_t5(str(t5_folder)), WIDTH, SETTINGS, seed=0)
    return trained(network, a_card(base=str(t5_folder)))


def save(decoder: Decoder, folder: Path) -> None:
    decoder.save_pretrained(folder)


def load(*args: Any, **options: Any) -> Decoder:
    return Decoder(*decoder_folder.load(*args, **options))


@pytest.fixture
def saved(soft_decoder: Decoder, tmp_path: Path) -> Path:
    save(soft_decoder, tmp_path / "saved")
    return tmp_path / "saved"


def said(decoder: Decoder) -> Any:
    states = np.random.default_rng(1).normal(size=(len(IDS), WIDTH)).astype(np.float32)
    drawn = decoder.decode(states, IDS, range(3), noise=0.3, temperature=1.0, seed=0, max_new_tokens=8)
    greedy = decoder.decode(states, IDS, [0], noise=0.0, temperature=0.0, seed=0, max_new_tokens=8)
    assert len({one.text for row in drawn for one in row}) > 5, "texts that all decoders say show nothing"
    return drawn, greedy


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of the card; None removes one."""
    file = folder / "decoder.json"
    card = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def test_the_model_as_its_own_decoder_is_read_again_without_the_model_in_the_folder(
    tokenizer: Any, soft_decoder: Decoder, saved: Path
) -> None:
    read = load(str(saved), None, lambda: language_model(tokenizer))
    assert said(read) == said(soft_decoder)
    for name, parameter in soft_decoder.network.parameters().items():
        assert torch.equal(read.network.parameters()[name], parameter)
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "decoder.json",
        "decoder.safetensors",
    ]
    tensors = load_file(saved / "decoder.safetensors")
    assert tensors.keys() == {
        "mean",
        "scale",
        *("network." + name for name in soft_decoder.network.parameters()),
    }
    assert not any("base_layer" in name or "embed" in name for name in tensors)
    assert (read.card["kind"], read.card["width"], read.card["format_version"]) == ("soft_prompt", WIDTH, 1)
    assert WANTED.items() <= read.card.items()
    assert read.card == load_card(str(saved))


def test_a_t5_brings_all_it_needs_and_nothing_of_this_machine(
    t5_decoder: Decoder, t5_folder: Path, tmp_path: Path
) -> None:
    save(t5_decoder, tmp_path / "saved")
    read = load(str(tmp_path / "saved"))
    assert said(read) == said(t5_decoder)
    texts = [path for path in (tmp_path / "saved").rglob("*") if path.suffix in (".json", ".md")]
    assert tmp_path / "saved" / "t5" / "config.json" in texts
    assert not list((tmp_path / "saved" / "t5").glob("*.safetensors"))  # the weights are the trained ones
    for path in texts:
        assert "/home/ann" not in path.read_text()
        assert str(t5_folder.parent) not in path.read_text()
    assert "t5" not in read.card["settings"]
    assert read.card["base"] == t5_folder.name


def test_saved_again_over_another_kind_nothing_of_it_stays(
    t5_decoder: Decoder, soft_decoder: Decoder, tokenizer: Any, tmp_path: Path
) -> None:
    save(t5_decoder, tmp_path)
    save(soft_decoder, tmp_path)
    assert not (tmp_path / "t5").exists()
    assert said(load(str(tmp_path), None, lambda: language_model(tokenizer))) == said(soft_decoder)


def test_a_save_that_is_cut_short_leaves_no_decoder_rather_than_a_mixed_one(
    soft_decoder: Decoder, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder_folder, "readme", killed)
    with pytest.raises(KeyboardInterrupt):
        save(soft_decoder, saved)
    with pytest.raises(ModelError, match=r"holds no decoder \(decoder.json missing\)"):
        load_card(str(saved))


def test_what_fits_and_what_does_not() -> None:
    check_fits(a_card(), WANTED, "here")
    for key, value in {**WANTED, "layer": 3, "position": "mean_prompt"}.items():
        other = 4 if key == "layer" else f"other {value}"
        with pytest.raises(RunError, match=rf"here: this decoder .*: .*{WANTED[key]}, but here {other}\. Give"):
            check_fits(a_card(), {**WANTED, key: other}, "here")
    with pytest.raises(RunError, match=r"model acme/tiny, but here b; layer 2, but here 5\. Give the probe"):
        check_fits(a_card(), {**WANTED, "model": "b", "layer": 5}, "here")


def test_the_same_files_are_the_same_model_wherever_they_lie() -> None:
    card = a_card(model="tiny", revision="sha256-1")
    check_fits(card, {**WANTED, "model": "/elsewhere/tiny", "revision": "sha256-1"}, "here")
    with pytest.raises(RunError, match="revision sha256-1, but here sha256-2"):
        check_fits(card, {**WANTED, "model": "tiny", "revision": "sha256-2"}, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 2, "ka2l": "9.1"},
            r"format_version is 2, and KA2L .* reads 1. Install KA2L 9.1 or",
        ),
        ({"format_version": None}, "format_version is None"),
        ({"kind": "gpt9"}, "kind is 'gpt9', and KA2L .* knows soft_prompt, t5"),
        ({"layer": -1}, "layer is -1"),
        ({"layer": True}, "layer is True"),
        ({"width": "6"}, "width is '6'"),
        ({"width": 7}, r"mean is \[6\], but the card has a width of 7"),
        ({"sensing_hash": None, "revision": None}, "the card lacks revision, sensing_hash"),
        ({"settings": {"soft_tokens": 0}}, "settings are not those of a decoder"),
        ({"settings": [1]}, "settings are not those of a decoder"),
        (
            {"settings": {"soft_tokens": 3, "lora_rank": 2}},
            r"shape of network.linear.bias is \[32\] here and \[48\] in",
        ),
        ({"t5_files": ["../../secret"]}, "not a list of file names"),
        ({"kind": "t5", "t5_files": ["config.json"]}, r"incomplete \(t5/config.json missing\)"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, saved: Path, tokenizer: Any
) -> None:
    edit(saved, **changes)
    with pytest.raises(ModelError, match=message) as error:
        load(str(saved), None, lambda: language_model(tokenizer))
    assert str(saved) in str(error.value)


def test_settings_of_a_later_version_are_passed_over(saved: Path, tokenizer: Any, soft_decoder: Decoder) -> None:
    edit(saved, settings={"soft_tokens": 2, "lora_rank": 2, "of_later": True})
    assert said(load(str(saved), None, lambda: language_model(tokenizer))) == said(soft_decoder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("network.out.bias", np.zeros(5, np.float32), r"network.out.bias is \[5\] here and \[32\] in"),
        ("network.extra", np.zeros(5, np.float32), r"network.extra is \[5\] here and none in"),
        ("network.out.bias", np.zeros(32, np.float64), "network.out.bias is float64"),
        ("network.out.bias", np.full(32, np.inf, np.float32), "network.out.bias has values that are not fin"),
        ("scale", np.zeros(WIDTH, np.float32), "scale has values that are not positive"),
        ("mean", None, "mean is missing"),
        ("network.out.bias", None, r"network.out.bias is none here and \[32\] in"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, array: np.ndarray | None, message: str, saved: Path, tokenizer: Any
) -> None:
    weights: dict[str, Any] = load_file(saved / "decoder.safetensors") | {name: array}
    kept = {key: value for key, value in weights.items() if value is not None}
    save_file(kept, saved / "decoder.safetensors")
    with pytest.raises(ModelError, match=message):
        load(str(saved), None, lambda: language_model(tokenizer))


def test_another_model_than_the_one_it_was_trained_on_is_refused(saved: Path, tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="The weights belong to another model or other settings"):
        load(str(saved), None, lambda: language_model(tokenizer, size=20))
    with pytest.raises(ModelError, match=r"this decoder is an adapter for acme/tiny .* Give model_loader"):
        load(str(saved))


def test_weights_that_broke_or_a_card_that_says_too_little_are_not_written(tokenizer: Any, tmp_path: Path) -> None:
    decoder = soft(tokenizer, layer=None)
    with pytest.raises(ModelError, match="this decoder: the card lacks layer"):
        save(decoder, tmp_path / "new")
    decoder.card["layer"] = 2
    with torch.no_grad():
        decoder.network.parameters()["out.bias"][0] = torch.nan
    with pytest.raises(ModelError, match=r"this decoder: network.out.bias has values that are not finite"):
        save(decoder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("decoder.json", b"{", r"decoder.json: not valid JSON"),
        ("decoder.json", b"[1]", r"decoder.json: a decoder's card is a JSON object, not list"),
        (
            "decoder.safetensors",
            b"\x80\x04K\x01.",
            r"decoder.safetensors: not a safetensors file",
        ),  # a pickle
    ],
)
def test_a_broken_file_is_named_before_a_model_is_loaded(file: str, content: bytes, message: str, saved: Path) -> None:
    (saved / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(str(saved), None, lambda: pytest.fail("the model was loaded"))


def test_a_folder_that_is_no_decoder_says_what_to_give(saved: Path) -> None:
    (saved.parent / "decoder").symlink_to(saved)
    with pytest.raises(ModelError, match=rf"holds no decoder .*Give {saved.parent}/decoder"):  # a run's
        load_card(str(saved.parent))
    with pytest.raises(ModelError, match=r"no such folder. Give the folder of a decoder or a Hub id"):
        load_card(str(saved / "elsewhere"))
    with pytest.raises(ModelError, match="is a folder, and revision v1 is of the Hub"):
        load_card(str(saved), "v1")
    (saved / "decoder.safetensors").unlink()
    with pytest.raises(ModelError, match=r"incomplete \(decoder.safetensors missing\)"):
        load(str(saved), None, lambda: pytest.fail("the model was loaded"))


def test_pushed_and_fetched_it_says_the_same(
    hub: HubServer, soft_decoder: Decoder, tokenizer: Any, tmp_path: Path
) -> None:
    address = soft_decoder.push_to_hub("me/decoder", token=TOKEN, private=True, endpoint=hub.url)
    assert address == f"{hub.url}/me/decoder"
    _initial, pushed = hub.repositories["me/decoder"].branches["main"]  # one commit
    assert sorted(pushed.files) == ["README.md", "decoder.json", "decoder.safetensors"]
    assert b"ka2l augment DIR decoder.pretrained=me/decoder" in pushed.files["README.md"]
    assert TOKEN.encode() not in b"".join(pushed.files.values())
    assert load_card("me/decoder", endpoint=hub.url)["model"] == "acme/tiny"
    assert not any("safetensors" in request for request in hub.requests if request.startswith("GET"))
    read = load("me/decoder", None, lambda: language_model(tokenizer), endpoint=hub.url)
    assert said(read) == said(soft_decoder)
    save(soft_decoder, tmp_path)
    assert fingerprint("me/decoder", endpoint=hub.url) == fingerprint(str(tmp_path))


def test_a_t5_is_fetched_with_its_folder_and_of_one_commit(
    hub: HubServer, t5_decoder: Decoder, soft_decoder: Decoder
) -> None:
    t5_decoder.push_to_hub("me/decoder", revision="v1", token=TOKEN, endpoint=hub.url)
    soft_decoder.push_to_hub("me/decoder", token=TOKEN, endpoint=hub.url)
    pushed = hub.repositories["me/decoder"].branches["v1"][-1]
    assert {"t5/config.json", "t5/tokenizer.json", "decoder.safetensors"} <= set(pushed.files)
    assert said(load("me/decoder", "v1", endpoint=hub.url)) == said(t5_decoder)
    fetched = [request for request in hub.requests if request.startswith("GET") and "/t5/" in request]
    assert len(fetched) == len(load_card("me/decoder", "v1", endpoint=hub.url)["t5_files"])
    assert all(f"/resolve/{pushed.sha}/t5/" in request for request in fetched)  # not of a branch that moves


def test_what_is_not_on_the_hub_is_reported(hub: HubServer) -> None:
    with pytest.raises(ModelError, match=r"me/nothing: .*no such repository on the Hub, or it is private"):
        load_card("me/nothing", endpoint=hub.url)


def test_a_fingerprint_is_of_what_is_read(saved: Path, tokenizer: Any) -> None:
    first = fingerprint(str(saved))
    (saved / "README.md").write_text("other words")
    assert fingerprint(str(saved)) == first
    edit(saved, layer=3)
    assert fingerprint(str(saved)) != first
    other = soft(tokenizer)
    other.mean[0] += 1
    save(other, saved)
    assert fingerprint(str(saved)) != first


def test_the_readme_says_what_comes_back_and_hides_this_machine() -> None:
    text = readme(a_card(kind="soft_prompt", width=576), "me/decoder")
    fields = yaml.safe_load(text.split("---\n")[1])
    assert fields["base_model"] == "acme/tiny"
    assert fields["library_name"] == "ka2l"
    assert "# Questions out of the hidden states of `acme/tiny`" in text
    assert "It reads layer 2 at the last token of the prompt" in text
    assert "| the same question | 46\u00a0% |" in text
    assert "| token F1 | 0.71 |" in text
    assert "uncertain by up to ± 7 points" in text
    assert "19,800 questions" in text
    assert "looked at 3 times in 1,300 steps, and the best look, after 200, is kept" in text
    assert "Question: Largest planet?\nAnswer: Jupiter" in text
    assert "2 soft tokens" in text
    hidden = readme(a_card(kind="t5", width=576, model="/home/ann/lm", base="/home/ann/t5-x"))
    assert "/home/ann" not in hidden
    assert "It is `t5-x`, fully fine-tuned, which reads the state as 3 pseudo-tokens" in hidden
    assert "base_model" not in yaml.safe_load(hidden.split("---\n")[1])
    bare = readme({"kind": "t5", "layer": 2})
    assert "Nobody knows: it was not tried" in bare
    assert "None" not in bare


@pytest.mark.parametrize("kind", ["soft_prompt", "t5"])
def test_the_example_of_the_readme_runs(
    kind: str, soft_decoder: Decoder, t5_decoder: Decoder, tokenizer: Any, tmp_path: Path
) -> None:
    decoder = soft_decoder if kind == "soft_prompt" else t5_decoder
    save(decoder, tmp_path)
    text = readme(load_card(str(tmp_path)), str(tmp_path))
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    model, tokenizer = language_model(tokenizer)
    states = np.zeros((1, WIDTH), dtype=np.float32)
    names = {"model": model, "tokenizer": tokenizer, "states": states, "names": ["q1"]}
    exec(example.replace("decoder.decode(", "made = decoder.decode("), names)
    made: Any = names["made"]
    assert [one.sample for one in made[0]] == list(range(8))
