"""Which fields of the configuration a stage's work reads, and which of them its content key covers.

Reads are recorded where they happen: every section of the configuration is a `Section`, and its attribute look-ups and
dumps are watched while a recorder is active. Fields are named `section.field`, or `field` for those of no section.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ka2l.common.settings_section import Section
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.stage import Identities, Stage
from ka2l.pipeline.stage_graph import Plan

IDENTITIES = tuple(name for name in vars(Identities) if not name.startswith("_"))


class ConfigRecorder:
    """Records, by stage, the fields that its `work` reads, and those that its key depends on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.work: dict[str, set[str]] = {}
        self.keyed: dict[str, set[str]] = {}
        self.identities: dict[str, set[str]] = {}
        self._stack: list[set[str]] = []
        # Sections by identity; they are kept, so that no other object gets the same one.
        self._names: dict[int, tuple[str, Section]] = {}
        self._watch(monkeypatch)

    def _watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look_up, dump, copy = Section.__getattribute__, Section.model_dump, Section.model_copy

        def getattribute(section: Section, name: str) -> Any:
            value = look_up(section, name)
            if self._stack and name in type(section).model_fields:
                self._read(section, name, value)
            return value

        def model_dump(section: Section, **options: Any) -> Any:
            # The whole configuration is dumped for config.yaml and for the page, which show it as it is.
            if self._stack and not isinstance(section, RunConfig):
                include, exclude = options.get("include"), options.get("exclude") or ()
                for name in type(section).model_fields:
                    if name not in exclude and (include is None or name in include):
                        self._read(section, name, None)
            return dump(section, **options)

        def model_copy(section: Section, **options: Any) -> Any:
            copied = copy(section, **options)
            if id(section) in self._names:
                self._names[id(copied)] = (self._names[id(section)][0], copied)
            return copied

        for name, function in (
            ("__getattribute__", getattribute),
            ("model_dump", model_dump),
            ("model_copy", model_copy),
        ):
            monkeypatch.setattr(Section, name, function)

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

    def watched(self, stage: Stage[Any]) -> Stage[Any]:
        """The same stage, whose functions are recorded."""
        name = stage.name
        keyed, asked = self.keyed.setdefault(name, set()), self.identities.setdefault(name, set())

        def work(context: Any, attempt: Any) -> None:
            with self.into(self.work.setdefault(name, set())):
                stage.work(context, attempt)

        def settings(config: RunConfig, arm: str, known: Identities) -> Any:
            with self.into(keyed):
                return stage.settings(config, arm, _Watched(self, known, asked))

        def read(function: Callable[[RunConfig, str], Sequence[str]]) -> Callable[..., Sequence[str]]:
            def reads(config: RunConfig, arm: str) -> Sequence[str]:
                # What decides the inputs is in the key with them.
                with self.into(keyed):
                    return function(config, arm)

            return reads

        def complete(config: RunConfig, record: StageRecord) -> bool:
            # Whether something is added under the same key.
            with self.into(keyed):
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
        for stage in plan.stages:
            name, _ = split_stage(stage)
            mine = covered.setdefault(name, set())
            mine |= self.keyed[name]
            for identity in self.identities.get(name, ()):
                mine |= fields_of[identity]
            for needed in plan.inputs[stage]:
                mine |= covered[split_stage(needed)[0]]
        found = {name: fields - covered[name] - only_speed for name, fields in self.work.items() if name in covered}
        return {name: fields for name, fields in found.items() if fields}


class _Watched:
    """Identities that remember which of them were asked for; what they read themselves is not recorded."""

    def __init__(self, recorder: ConfigRecorder, known: Identities, asked: set[str]):
        self._recorder, self._known, self._asked = recorder, known, asked

    def __getattr__(self, name: str) -> Any:
        self._asked.add(name)
        with self._recorder.into(set()):
            return getattr(self._known, name)
