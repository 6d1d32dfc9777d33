"""The stages a configuration needs, their order, and what each of them reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ka2l.config.run_config import RunConfig
from ka2l.pipeline.arms import MAIN, split_stage
from ka2l.pipeline.stage import ContextT, Stage


@dataclass(frozen=True)
class Plan(Generic[ContextT]):
    """The stages of one configuration."""

    # By name and arm (`select@random`), in the order they run.
    stages: dict[str, Stage[ContextT]]
    # The stages whose artifacts each stage reads.
    inputs: dict[str, list[str]]

    def of_verb(self, verb: str) -> list[str]:
        """The stages one verb runs; empty if this configuration has none of them."""
        return [stage for stage, declared in self.stages.items() if declared.verb == verb]


def plan(declared: Sequence[Stage[ContextT]], config: RunConfig, last: str = "report") -> Plan[ContextT]:
    """Every stage that `last` depends on, in the order of `declared`; of each, the main arm comes first.

    Args:
        declared: all stages, in order.
        config: decides which of them are needed.
        last: the last stage of the plan.
    """
    by_name = {stage.name: stage for stage in declared}
    rank = {stage.name: number for number, stage in enumerate(declared)}
    stage_of_signal = {signal: stage.name for stage in declared for signal in stage.gives}
    inputs: dict[str, list[str]] = {}
    waiting = [last]
    while waiting:
        stage = waiting.pop()
        if stage in inputs:
            continue
        name, arm = split_stage(stage)
        read = list(by_name[name].reads(config, arm))
        of_signals = {stage_of_signal[signal] for signal in by_name[name].signals(config, arm)} - set(read)
        inputs[stage] = [*read, *sorted(of_signals, key=rank.__getitem__)]
        waiting += inputs[stage]

    def sort_key(stage: str) -> tuple[int, bool]:
        name, arm = split_stage(stage)
        return rank[name], arm != MAIN

    order = sorted(inputs, key=sort_key)
    return Plan({stage: by_name[split_stage(stage)[0]] for stage in order}, {stage: inputs[stage] for stage in order})
