"""The headline numbers of a run: what `ka2l run --json` prints, and what the closing screen shows.

Usage:

    summary(run).pool.unknown
    summary(run).values()       # for `--json`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.config.run_limits import Limit, answered_by, has_stand_in, limit
from ka2l.pipeline.arms import arm_stage, arms, strategy_of
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_list import plan_of


class UnknownCount(NamedTuple):
    """Questions, and how many of them are unknown (None: no threshold could be fitted)."""

    questions: int
    unknown: int | None


class ProbeSummary(NamedTuple):
    """The probe of a run; `auroc` by what it predicts, as an interval in JSON, None without test rows."""

    kind: str
    layer: int
    n_layers: int
    target: str
    auroc: Mapping[str, dict[str, Any] | None]


class EvaluationSummary(NamedTuple):
    """The arms of evaluation.json by strategy, the replayed questions of each, and the base model's prompt."""

    arms: Mapping[str, Any]
    replayed: Mapping[str, int]
    base_prompt: str


@dataclass(frozen=True)
class RunSummary:
    """The headline numbers; None for parts that the run has not reached.

    Attributes:
        run: folder of the run.
        model: the model whose knowledge is measured.
        seconds: time of all stages.
        report: path of the report.
        stand_in: the model whose hidden states are read in place of the answering model's.
        sampling: record of the stage `sample`.
        measured: questions with semantic entropy.
        pool: questions on the map.
        given_probe: a probe from outside the run, as a folder or Hub id.
        probe: the probe trained in the run.
        augment: counts of decoded questions and of their answers.
        evaluation: the evaluated arms.
        end: the last possible stage, if the run cannot be completed.
    """

    run: str
    model: str
    seconds: float
    report: str
    stand_in: str | None = None
    sampling: StageRecord | None = None
    measured: UnknownCount | None = None
    pool: UnknownCount | None = None
    given_probe: str | None = None
    probe: ProbeSummary | None = None
    augment: Mapping[str, int] | None = None
    evaluation: EvaluationSummary | None = None
    end: Limit | None = None

    def values(self) -> dict[str, Any]:
        """Plain values; parts the run has not reached are missing."""
        values: dict[str, Any] = {"run": self.run, "model": self.model}
        if self.stand_in is not None:
            values["stand_in"] = self.stand_in
        if self.sampling is not None:
            values["sampling"] = {
                **self.sampling.counts,
                **self.sampling.tokens,
                "tokens_per_second": self.sampling.tokens_per_second,
                "memory_mb": self.sampling.memory_mb,
            }
        if self.measured is not None:
            values |= {"measured": self.measured.questions, "measured_unknown": self.measured.unknown}
        if self.pool is not None:
            values |= {"pool": self.pool.questions, "pool_unknown": self.pool.unknown}
        if self.given_probe is not None:
            values["given_probe"] = self.given_probe
        if self.probe is not None:
            probe = self.probe._asdict()
            values["probe"] = probe | probe.pop("auroc")
        if self.augment is not None:
            values["augment"] = self.augment
        if self.evaluation is not None:
            evaluation = self.evaluation
            values |= {"evaluation": evaluation.arms, "replayed": evaluation.replayed}
            values["base_prompt"] = evaluation.base_prompt
        if self.end is not None:
            values |= {"ends_after": self.end.last, "why": self.end.why}
        return values | {"seconds": self.seconds, "report": self.report}


def summary(run: RunDirectory) -> RunSummary:
    """The headline numbers of a run; stages left behind by an earlier configuration do not count."""
    config = run.config
    stages = set(plan_of(config).stages)
    done = {name for name in stages if name in run.stages and run.stages[name].state == "done"}
    return RunSummary(
        run=str(run.path),
        model=answered_by(config),
        seconds=round(sum(record.seconds for name, record in run.stages.items() if name in stages), 1),
        report=str(run.file("report.html")),
        stand_in=config.model.name if has_stand_in(config) else None,
        sampling=run.stages["sample"] if "sample" in done else None,
        measured=_unknown_count(run.stages["measure"]) if "measure" in done else None,
        pool=_unknown_count(run.stages["map"]) if "map" in done else None,
        given_probe=config.map.probe if "map" in done and config.map.probe else None,
        probe=_probe(run) if "probe" in done else None,
        augment=_augment(run, annotated="annotate" in done) if "augment" in done else None,
        evaluation=_evaluation(run) if "evaluate" in done else None,
        end=limit(config),
    )


def _unknown_count(record: StageRecord) -> UnknownCount:
    return UnknownCount(record.counts["questions"], record.counts.get("unknown"))


def _probe(run: RunDirectory) -> ProbeSummary | None:
    """The card of the run's probe; None if the file is missing."""
    file = run.file("probe") / "probe.json"
    if not file.exists():
        return None
    card = atomic_files.read_json(file)
    auroc = {target: scores and scores["auroc"] for target, scores in card["scores"]["probe"].items()}
    return ProbeSummary(card["kind"], card["layer"], card["n_layers"], card["target"], auroc)


def _augment(run: RunDirectory, *, annotated: bool) -> dict[str, int]:
    """Counts of the decoded questions, and of their labels."""
    counts = run.stages["annotate"].counts if annotated else {}
    answered = {name.removeprefix("decoded_"): n for name, n in counts.items() if name.startswith("decoded_")}
    return run.stages["augment"].counts | answered


def _evaluation(run: RunDirectory) -> EvaluationSummary | None:
    """The evaluated arms; None if the file is missing."""
    file = run.file("evaluation.json")
    if not file.exists():
        return None
    evaluation = atomic_files.read_json(file)
    trained = {strategy_of(run.config, arm): run.stages.get(arm_stage("finetune", arm)) for arm in arms(run.config)}
    replayed = {name: record.counts.get("replayed", 0) for name, record in trained.items() if record}
    return EvaluationSummary(evaluation["arms"], replayed, evaluation["base_prompt"])
