"""Folders with a card and weights against a Hub on this machine. Probes and decoders have tests of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_client import TOKEN
from hub_client import hub as hub  # a fixture
from hub_server import HubServer
from ka2l.common import atomic_files
from ka2l.common.hub import (
    check_files,
    check_format,
    download,
    local_folder,
    push_folder,
    read_card,
    read_weights,
)
from ka2l.errors import ModelError

HOW = "Make one."


def written(folder: Path) -> Sequence[str]:
    """A folder in a folder, and a file that is not to be uploaded."""
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    atomic_files.write_json(folder / "card.json", {"format_version": 1})
    return ["t5/config.json", "card.json"]


def test_a_folder_is_pushed_in_one_commit_and_read_back(hub: HubServer) -> None:
    options: dict[str, Any] = {"message": "A folder", "token": TOKEN, "endpoint": hub.url}
    assert push_folder(written, "me/one", private=True, **options) == f"{hub.url}/me/one"
    assert hub.repositories["me/one"].private
    _initial, pushed = hub.repositories["me/one"].branches["main"]
    assert pushed.message == "A folder"
    assert sorted(pushed.files) == ["card.json", "t5/config.json"]
    paths = download("me/one", ["card.json", "t5/config.json"], endpoint=hub.url)
    assert [path.name for path in paths] == ["card.json", "config.json"]
    assert read_card(paths[0], "probe") == {"format_version": 1}


def test_a_folder_is_pushed_to_a_branch(hub: HubServer) -> None:
    address = push_folder(written, "me/one", message="m", token=TOKEN, revision="v1", endpoint=hub.url)
    assert address == f"{hub.url}/me/one/tree/v1"
    assert len(hub.repositories["me/one"].branches["main"]) == 1
    assert download("me/one", ["card.json"], "v1", endpoint=hub.url)[0].is_file()


def test_nothing_is_left_and_nothing_pushed_if_writing_fails(hub: HubServer) -> None:
    folders = []

    def fail(folder: Path) -> Sequence[str]:
        folders.append(folder)
        (folder / "half").touch()
        raise ModelError("no card")

    with pytest.raises(ModelError, match="no card"):
        push_folder(fail, "me/one", message="m", token=TOKEN, endpoint=hub.url)
    assert not folders[0].exists()
    assert hub.requests == []


def test_a_refused_push_names_the_files_and_not_the_token(hub: HubServer) -> None:
    with pytest.raises(ModelError, match=r"me/one: cannot push config.json, card.json: .*hf auth login") as error:
        push_folder(written, "me/one", message="m", token="hf_wrong", endpoint=hub.url)
    assert "hf_wrong" not in str(error.value)


def test_missing_files_are_named_with_a_hint_at_the_right_folder(tmp_path: Path) -> None:
    names = ["probe.json", "probe.safetensors"]
    with pytest.raises(ModelError, match=r"no probe \(probe.json and probe.safetensors missing\). Make one\."):
        check_files(tmp_path, names, "probe", HOW)
    (tmp_path / "probe").mkdir()
    for name in names:
        (tmp_path / "probe" / name).touch()
    with pytest.raises(ModelError, match=rf"Give {tmp_path}/probe\."):
        check_files(tmp_path, names, "probe", HOW)
    check_files(tmp_path / "probe", names, "probe", HOW)


def test_cards_and_weights_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"{")
    with pytest.raises(ModelError, match=r"file: not valid JSON .* Fetch or save the decoder again"):
        read_card(file, "decoder")
    with pytest.raises(ModelError, match=r"file: not a safetensors file .* Fetch or save the decoder again"):
        read_weights(file, "decoder")
    atomic_files.write_tensors(file, {"a": np.arange(3)}, {})
    assert read_weights(file, "decoder")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ([1], r"here: a probe's card is a JSON object, not list. Make one"),
        ({}, r"format_version is None, .* Make one"),
        ({"format_version": 3, "ka2l": "9.1"}, r"reads 2. Install KA2L 9.1 or newer"),
    ],
)
def test_cards_of_another_format(card: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_format(card, "probe", 2, "here", HOW)
    check_format({"format_version": 2}, "probe", 2, "here", HOW)


def test_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path), None, "probe") == tmp_path
    assert local_folder("me/probe", "v1", "probe") is None
    with pytest.raises(ModelError, match="is a folder, and revision v1"):
        local_folder(str(tmp_path), "v1", "probe")
    for name in ("./nothing", "a/b/c", str(tmp_path / "nothing")):
        with pytest.raises(ModelError, match=r"no such folder. Give the folder of a probe"):
            local_folder(name, None, "probe")
