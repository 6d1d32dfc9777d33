"""Settings that are paths are made absolute, and names, Hub ids and files that do not exist stay as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ka2l.common.settings_section import PathOr
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig

PATHS = {
    "questions.source": ("geonames", "imported"),
    "model.name": ("smollm2-135m",),
    "map.probe": (),
    "decoder.pretrained": (),
    "decoder.t5": (),
    "augment.embedding_model": ("minilm",),
    "select.encoder": ("minilm",),
    "measure.nli_model": (),
    "measure.embedding_model": ("minilm",),
    "measure.llm_model": ("smollm2-135m",),
    "measure.cache": (),
}


def marked(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, PathOr]]:
    """Every setting that is a path, with its mark."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from marked(field.annotation, f"{prefix}{name}.")
        yield from ((prefix + name, mark) for mark in field.metadata if isinstance(mark, PathOr))


def value(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def made(key: str, text: str) -> RunConfig:
    """The configuration with one setting changed, then made absolute."""
    return with_absolute_paths(load_config(None, [f"{key}={text}"]))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory and home, with a folder and a file in it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_settings_that_are_paths() -> None:
    marks = dict(marked(RunConfig))
    assert {key: set(mark.names) - {""} for key, mark in marks.items()} == {
        key: set(names) for key, names in PATHS.items()
    }
    assert [key for key, mark in marks.items() if mark.created] == ["measure.cache"]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("text", ["mine", "./mine.jsonl", "mine/../mine", "~/mine"])
def test_paths_of_files_and_folders_become_absolute(key: str, text: str, folder: Path) -> None:
    expected = str(folder.resolve() / text.rpartition("/")[2])
    config = made(key, text)
    assert value(config, key) == expected
    others = {other: value(config, other) for other in PATHS if other != key}
    assert others == {other: value(RunConfig(), other) for other in others}


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in PATHS.items() for name in names])
def test_names_stay_also_beside_a_folder_of_that_name(key: str, name: str, folder: Path) -> None:
    (folder / name).mkdir()
    assert value(made(key, name), key) == name


@pytest.mark.parametrize("key", [key for key in PATHS if key != "measure.cache"])
@pytest.mark.parametrize("text", ["owner/name", "nothing/here.jsonl", "/nowhere/at/all"])
def test_what_does_not_exist_stays(key: str, text: str) -> None:
    assert value(made(key, text), key) == text


def test_the_cache_is_a_path_before_it_exists(folder: Path) -> None:
    assert value(made("measure.cache", "new/judgements.sqlite"), "measure.cache") == str(
        folder.resolve() / "new/judgements.sqlite"
    )
    assert value(made("measure.cache", ""), "measure.cache") == ""


def test_nothing_else_changes() -> None:
    config = load_config(None, ["seed=3", "questions.columns.question=mine", "report.title=mine"])
    assert with_absolute_paths(config) is config
    changed = with_absolute_paths(load_config(None, ["seed=3", "measure.cache=a", "report.title=mine"]))
    assert (changed.seed, changed.report.title) == (3, "mine")
