"""Which stages a configuration needs, in which order, and what each of them reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ka2l.config.run_config import RunConfig
from ka2l.pipeline.arms import MAIN, split_stage
from ka2l.pipeline.stage import ContextT, Stage


@dataclass(frozen=True)
class Plan(Generic[ContextT]):
    """The stages of one configuration."""

    stages: dict[str, Stage[ContextT]]  # by name and arm (`select@random`), in the order they run
    inputs: dict[str, list[str]]  # the stages whose artifacts each reads

    def of_verb(self, verb: str) -> list[str]:
        """The stages one verb runs; none where this configuration does not get that far."""
        return [stage for stage, declared in self.stages.items() if declared.verb == verb]

    def has(self, name: str) -> bool:
        """Whether the main arm has this stage."""
        return name in self.stages


def plan(declared: Sequence[Stage[ContextT]], config: RunConfig, last: str = "report") -> Plan[ContextT]:
    """Every stage that `last` depends on, in the order of the declared ones; the main arm comes first.

    Args:
        declared: all stages, in order.
        config: decides which of them are needed.
        last: the stage the plan leads to.
    """
    of = {stage.name: stage for stage in declared}
    rank = {stage.name: number for number, stage in enumerate(declared)}
    giver = {signal: stage.name for stage in declared for signal in stage.gives}
    inputs: dict[str, list[str]] = {}
    waiting = [last]
    while waiting:
        stage = waiting.pop()
        if stage in inputs:
            continue
        name, arm = split_stage(stage)
        read = list(of[name].reads(config, arm))
        givers = {giver[signal] for signal in of[name].signals(config, arm)} - set(read)
        inputs[stage] = [*read, *sorted(givers, key=rank.__getitem__)]
        waiting += inputs[stage]

    def place(stage: str) -> tuple[int, bool]:
        name, arm = split_stage(stage)
        return rank[name], arm != MAIN

    order = sorted(inputs, key=place)
    return Plan(
        {stage: of[split_stage(stage)[0]] for stage in order}, {stage: inputs[stage] for stage in order}
    )
