"""Which fields of the configuration a stage's work reads, and which of them its content key covers.

Reads are recorded where they happen: every section of the configuration is a `Section`, and its attribute look-ups and
dumps are watched while a recorder is active. Fields are named `section.field`, or `field` for those of no section.
"""

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ka2l.common.settings_section import Section
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.arms import arm_stage, split_stage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt
from ka2l.pipeline.stage import Identities, Stage
from ka2l.pipeline.stage_graph import Plan

IDENTITIES = tuple(name for name in vars(Identities) if not name.startswith("_"))


class ConfigRecorder:
    """Records, by stage and arm, the fields that its `work` reads, and those that its key depends on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.work: dict[str, set[str]] = {}
        self.keyed: dict[str, set[str]] = {}
        self.identities: dict[str, set[str]] = {}
        # By stage: what decides whether something is added under the same key. It covers no other stage.
        self.completed: dict[str, set[str]] = {}
        self._stack: list[set[str]] = []
        # Sections by identity; they are kept, so that no other object gets the same one.
        self._names: dict[int, tuple[str, Section]] = {}
        self._watch(monkeypatch)

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look_up, copy, iterate = Section.__getattribute__, Section.model_copy, Section.__iter__
        dump, dump_json = Section.model_dump, Section.model_dump_json

        def getattribute(section: Section, name: str) -> Any:
            value = look_up(section, name)
            if self._stack and name in type(section).model_fields:
                self._read(section, name, value)
            elif self._stack and name == "__dict__":
                self._read_all(section)
            return value

        def model_dump(section: Section, **options: Any) -> Any:
            self._read_all(section, options.get("include"), options.get("exclude"))
            with self.into(set()):
                return dump(section, **options)

        def model_dump_json(section: Section, **options: Any) -> str:
            self._read_all(section, options.get("include"), options.get("exclude"))
            with self.into(set()):
                return dump_json(section, **options)

        def model_copy(section: Section, **options: Any) -> Any:
            with self.into(set()):
                copied = copy(section, **options)
            if id(section) in self._names:
                self._names[id(copied)] = (self._names[id(section)][0], copied)
            return copied

        def iterator(section: Section) -> Any:
            self._read_all(section)
            with self.into(set()):
                return iterate(section)

        watched = (getattribute, model_dump, model_dump_json, model_copy, iterator)
        names = ("__getattribute__", "model_dump", "model_dump_json", "model_copy", "__iter__")
        for name, function in zip(names, watched, strict=True):
            monkeypatch.setattr(Section, name, function)

    def _read_all(
        self, section: Section, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> None:
        """Record a reading of these fields; of a section in a field, all of its own."""
        # config.yaml and the page show the whole configuration as it is.
        if not self._stack or any(frame.name == "to_yaml" for frame in traceback.extract_stack(limit=6)):
            return
        for name in type(section).model_fields:
            if name in (exclude or ()) or not (include is None or name in include):
                continue
            with self.into(set()):
                value = getattr(section, name)
            self._read(section, name, value)
            if isinstance(value, Section):
                self._read_all(value)

    def _read(self, section: Section, name: str, value: Any) -> None:
        if isinstance(section, RunConfig):
            path = name
        elif id(section) in self._names:
            path = f"{self._names[id(section)][0]}.{name}"
        else:
            # No part of the run's configuration: the settings in a decoder's card, for example.
            return
        if isinstance(value, Section):
            self._names[id(value)] = (path, value)
        else:
            self._stack[-1].add(".".join(path.split(".")[:2]))

    @contextmanager
    def into(self, fields: set[str]) -> Iterator[None]:
        """Record what is read inside into this set, and nowhere else."""
        self._stack.append(fields)
        try:
            yield
        finally:
            self._stack.pop()

    def watched(self, stage: Stage[Any], before: Callable[[Any], None] = lambda _context: None) -> Stage[Any]:
        """The same stage, whose functions are recorded.

        Args:
            stage: as declared.
            before: called with the context before its work, to drop what earlier stages have read and kept.
        """
        name = stage.name

        def keyed_set(arm: str) -> set[str]:
            return self.keyed.setdefault(arm_stage(name, arm), set())

        def work(context: Any, attempt: Attempt) -> None:
            before(context)
            with self.into(self.work.setdefault(attempt.stage, set())):
                stage.work(context, attempt)

        def settings(config: RunConfig, arm: str, known: Identities) -> Any:
            asked = self.identities.setdefault(arm_stage(name, arm), set())
            with self.into(keyed_set(arm)):
                return stage.settings(config, arm, _Watched(self, known, asked))

        def read(function: Callable[[RunConfig, str], Sequence[str]]) -> Callable[..., Sequence[str]]:
            def reads(config: RunConfig, arm: str) -> Sequence[str]:
                # What decides the inputs is in the key with them.
                with self.into(keyed_set(arm)):
                    return function(config, arm)

            return reads

        def complete(config: RunConfig, record: StageRecord) -> bool:
            with self.into(self.completed.setdefault(name, set())):
                return stage.complete(config, record)

        reads, signals = read(stage.reads), read(stage.signals)
        return replace(stage, work=work, settings=settings, complete=complete, reads=reads, signals=signals)

    def identity_fields(self, known: Identities) -> dict[str, set[str]]:
        """The fields that each identity is made from, of identities nobody has asked for anything yet."""
        found: dict[str, set[str]] = {}
        for name in IDENTITIES:
            with self.into(found.setdefault(name, set())):
                getattr(known, name)
        return found

    def uncovered(
        self, plan: Plan[Any], fields_of: Mapping[str, set[str]], only_speed: set[str]
    ) -> dict[str, set[str]]:
        """By stage, the fields its work reads that neither its key nor an input's key covers.

        Args:
            plan: whose stages have worked.
            fields_of: the fields that each identity is made from.
            only_speed: fields that change speed and nothing else.
        """
        covered: dict[str, set[str]] = {}
        for stage, declared in plan.stages.items():
            mine = covered.setdefault(stage, set())
            mine |= self.keyed[stage]
            for identity in self.identities.get(stage, ()):
                mine |= fields_of[identity]
            for needed in plan.inputs[stage]:
                # The key of such an input is not hashed, so it covers nothing.
                if needed not in declared.unhashed:
                    mine |= covered[needed]
        found = {
            stage: fields - covered[stage] - self.completed.get(split_stage(stage)[0], set()) - only_speed
            for stage, fields in self.work.items()
            if stage in covered
        }
        return {stage: fields for stage, fields in found.items() if fields}


class _Watched:
    """Identities that remember which of them were asked for; what they read themselves is not recorded."""

    def __init__(self, recorder: ConfigRecorder, known: Identities, asked: set[str]):
        self._recorder, self._known, self._asked = recorder, known, asked

    def __getattr__(self, name: str) -> Any:
        self._asked.add(name)
        with self._recorder.into(set()):
            return getattr(self._known, name)
