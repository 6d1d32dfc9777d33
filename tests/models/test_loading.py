"""Models are found and loaded, and a model that cannot be is an error that names it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ka2l.errors import ModelError
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.settings import ModelConfig
from tiny import TinyWorld


def test_resolve_names_what_it_tried(tmp_path: Path, tiny_world: TinyWorld) -> None:
    for name in (str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(ModelError, match=r"no such folder"):
            resolve(ModelConfig(name=name))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        resolve(ModelConfig(name=str(tmp_path)))
    found = resolve(ModelConfig(name=str(tiny_world.folder)))
    assert found.path == str(tiny_world.folder.resolve())
    assert found.revision.startswith("sha256-")


def test_a_hub_id_while_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/no-such-model: no such model.*the Hub says"):
        resolve(ModelConfig(name="nobody/no-such-model"))


def test_a_folders_revision_changes_with_its_weights(tmp_path: Path, tiny_world: TinyWorld) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tiny_world.folder, folder)
    config = ModelConfig(name=str(folder))
    before = resolve(config).revision
    assert before == resolve(ModelConfig(name=str(tiny_world.folder))).revision
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert resolve(config).revision != before


@pytest.mark.parametrize("damage", ["truncated weights", "no tokenizer", "config is not JSON"])
def test_a_damaged_folder_is_a_model_error(tmp_path: Path, tiny_world: TinyWorld, damage: str) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(tiny_world.folder, folder)
    if damage == "truncated weights":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        (folder / "config.json").write_text("{")
    config = ModelConfig(name=str(folder), device="cpu")
    with pytest.raises(ModelError, match="cannot load this model"):
        LocalModel.load(config, resolve(config))


def test_cuda_where_there_is_none(tiny_world: TinyWorld) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    config = ModelConfig(name=str(tiny_world.folder), device="cuda")
    with pytest.raises(ModelError, match=r"model\.device is cuda"):
        LocalModel.load(config, resolve(config))
