"""The verbs in order: reads like the picture of the house.

    from ka2l.pipeline import run
    run(load_config(Path("recipes/geo-smollm2.yaml")), Path("runs/geo"))

Every stage is skipped where its content key says that nothing it depends on has changed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ka2l.config import RunConfig
from ka2l.errors import DataError, DegenerateError, RunError
from ka2l.models import embedded
from ka2l.pipeline import (
    act,
    annotating,
    augment,
    candidates,
    decoder,
    imported,
    judge,
    probing,
    replay,
    sampling,
    sense,
    show,
    signals,
)
from ka2l.pipeline.cells import Upstream
from ka2l.pipeline.context import Context, check_means
from ka2l.progress import Reporter, duration
from ka2l.questions import LoadedQuestions, Question, load_questions
from ka2l.reach import limit
from ka2l.stages import VERBS, all_stages, augments, stages_of, verb_of
from ka2l.store import RunDirectory, StageRecord, split_stage

__all__ = ["import_answers", "read_questions", "run", "run_verb"]

_NO_PATHS = ("", "geonames", imported.SOURCE, embedded.NAME, "minilm")  # names with a meaning of their own
_STAGE_1 = ("load", "sample", "measure", "probe", "map")
_Stage = Callable[[Context, str, str, dict[str, str]], None]
_WORK: dict[str, _Stage] = {
    "sample": sampling.sample,
    "measure": judge.measure,
    "probe": probing.probe,
    "map": sense.map_pool,
    "signals": signals.next_token,
    "pool_answers": sampling.pool_answers,
    "pool_entropy": signals.sampled_entropy,
    "pool_likelihood": signals.answer_likelihood,
    "sentences": signals.sentences,
    "select": act.select_questions,
    "decoder_states": decoder.decoder_states,
    "decoder": decoder.train_decoder,
    "candidates": candidates.decode,
    "augment": augment.augment,
    "annotate": annotating.annotate,
    "replay": replay.replay,
    "finetune": act.finetune,
    "evaluate": act.evaluate_models,
    "report": show.report,
}


def run(config: RunConfig, out: Path, reporter: Reporter | None = None) -> RunDirectory:
    """Do everything that is not done yet, from the questions to the report.

    Raises:
        Ka2lError: something the user can mend; what is finished stays and the same call continues.
        WaitingForPeople: the bought questions need answers from people first.
    """
    directory = RunDirectory.create(out, with_absolute_paths(config))
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        worked = _load(context, complete=True)
        for stage in all_stages(config):
            if stage != "load":
                worked = _do(context, stage) or worked
        if not worked:
            context.reporter.say(f"Nothing to do: {out} is finished, and nothing it depends on has changed.")
    return directory


def make_upstream(
    config: RunConfig,
    out: Path,
    policies: Sequence[RunConfig],
    reporter: Reporter,
    check: Callable[[Sequence[Question]], None],
) -> Upstream:
    """Stage 1 and the signals that any of these configurations selects by, in one run directory.

    Args:
        config: the run's own; it stays in config.yaml.
        out: the run directory; made, or continued.
        policies: configurations that differ in `select` and `finetune` only.
        reporter: progress.
        check: called with all questions before the model is asked anything; raises what stands against it.
    """
    directory = Upstream.create(out, with_absolute_paths(config))
    with directory.locked():
        context = Context(directory, reporter)
        _load(context, complete=True)
        questions = list(context.questions_by_id().values())
        check(questions)
        # No arm beside the policy's own, whose signals nobody would read.
        alone = [
            with_absolute_paths(
                policy.model_copy(update={"select": policy.select.model_copy(update={"baseline": None})})
            )
            for policy in policies
        ]
        for policy in alone:
            with directory.working_with(policy):
                check_means(context, questions)
        done: set[str] = set()
        for policy in alone:
            with directory.working_with(policy):
                for stage in all_stages(directory.config):
                    if verb_of(stage) in _STAGE_1 and stage not in {"load", *done}:
                        _do(context, stage)
                        done.add(stage)
        context.release()
        directory.save_config()
    return directory


def run_verb(verb: str, directory: RunDirectory, reporter: Reporter | None = None) -> list[str]:
    """One verb on a run directory whose earlier stages are done; returns the stages it worked on.

    Raises:
        RunError: an earlier stage is missing or out of date, or the run cannot come so far (see `ka2l.reach`).
    """
    if verb not in VERBS:
        raise RunError(f"{verb}: no such verb. There are: {', '.join(VERBS)}.")
    check_reach(verb, directory)
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        if verb == "load":
            _load(context)
            return ["load"]
        stages = stages_of(verb, directory.config)
        if verb == "measure" and _only_reads_more(context):
            stages = ["sample", *stages]
        for stage in stages:
            _do(context, stage)
    return stages


def import_answers(
    out: Path,
    file: Path,
    overrides: Sequence[str] = (),
    *,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> RunDirectory:
    """Take answers made elsewhere into the run at `out`, or start one with their questions; then `measure` can work.

    Args:
        out: a run whose questions are loaded, or a new folder.
        file: JSONL, see `ka2l.answers_file`.
        overrides: settings on top, such as `sample.states=surrogate`.
        replace: let them take the place of answers that are there.

    Raises:
        DataError: bad rows, all of them listed; nothing is imported.
        RunError: the run has other answers already, and `replace` is off.
    """
    reporter = reporter or Reporter()
    directory = imported.take_in(out, file, overrides, reporter, replace=replace)
    if directory.config.questions.source == imported.SOURCE:
        run_verb("load", directory, reporter)
    run_verb("sample", directory, reporter)
    return directory


def check_reach(verb: str, directory: RunDirectory) -> None:
    """Refuse a verb that makes no sense with the answers and states this run has."""
    end = limit(directory.config)
    if end is not None and verb != "report" and VERBS.index(verb) > VERBS.index(end.last):
        raise RunError(f"{directory.path}: `{verb}` is not possible here. {end.why}")
    if verb == "augment" and not augments(directory.config):
        raise RunError(
            f"{directory.path}: nothing is to be decoded (augment.per_question=0). Say how many questions from each "
            f"state: `ka2l augment {directory.path} augment.per_question=8`"
        )
    if verb != "report" and not stages_of(verb, directory.config):
        raise RunError(
            f"{directory.path}: `{verb}` has no place here: the pool is mapped by a probe trained before "
            f"(map.probe={directory.config.map.probe}). To train one here, set map.probe= (empty)"
        )


def read_questions(config: RunConfig, directory: RunDirectory | None) -> LoadedQuestions:
    """The questions of this config, freshly read from their source; those that came with answers lie in the run."""
    if config.questions.source == imported.SOURCE:
        if directory is None:
            raise DataError(
                f"questions.source={imported.SOURCE} is for a run that was started with `ka2l import`: name it with --out."
            )
        return imported.imported_questions(directory)
    return load_questions(
        config.questions, config.seed, max(config.prompt.shots, config.prompt.teaching_shots)
    )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with paths of files and folders spelled out, so that the run can go on from any folder."""
    named = [("questions", "source"), ("model", "name"), ("map", "probe")]
    named += [("decoder", "pretrained"), ("decoder", "t5"), ("augment", "embedding_model")]
    named += [("select", "encoder")]
    named += [("measure", key) for key in ("nli_model", "embedding_model", "llm_model", "cache")]
    for section, key in named:
        values = getattr(config, section)
        path = Path(getattr(values, key)).expanduser()
        if getattr(values, key) not in _NO_PATHS and (path.exists() or key == "cache"):
            resolved = values.model_copy(update={key: str(path.resolve())})
            config = config.model_copy(update={section: resolved})
    return config


def _only_reads_more(context: Context) -> bool:
    """Whether nothing but more of the imported answers is missing for `measure`: that costs nothing."""
    record = context.run.stages.get("sample")
    if context.config.sample.engine != "imported" or record is None or record.state != "done":
        return False
    key = context.keys()["sample"]
    return record.key == key and not context.run.is_done("sample", key)


def _load(context: Context, *, complete: bool = False) -> bool:
    """Read, check and write the questions; whether there was anything to write. `complete`: the whole run follows."""
    config = context.config
    loaded = read_questions(config, context.run)
    if complete:
        _check_roles(config, loaded.questions)
    check_means(context, loaded.questions)
    worked = sense.load(context, loaded)
    done = "" if worked else "  (done before)"
    context.reporter.say(f"load       {_counts(context.run.stages['load'])}{done}")
    return worked


def _check_roles(config: RunConfig, questions: Sequence[Question]) -> None:
    """Refuse, before anything is written, questions that a later stage could not work with."""
    stages = all_stages(config)
    needed = {"probe": "sample", "pool": "map", "eval": "evaluate", "decoder": "decoder_states"}
    more = dict.fromkeys(needed, "")
    more["decoder"] = ", or take a decoder trained before (decoder.pretrained); for GeoNames also "
    more["decoder"] += "questions.geonames.decoder=7000"
    for role in (role for role, stage in needed.items() if stage in stages):
        if not any(question.role == role for question in questions):
            raise DegenerateError(
                f"{config.questions.source}: no question has the role {role}{', so the pool is empty' * (role == 'pool')}. "
                f"Give questions.roles.{role} a size, or check the column of roles{more[role]}."
            )
    buys = "annotate" in stages and config.annotate.annotator == "gold"
    if buys and not any(q.answers for q in questions if q.role == "pool"):
        raise DataError(
            f"{config.questions.source}: no question of the pool has an answer, so there is no gold to teach. Name the "
            "column of answers (questions.columns.answers), or let people answer: annotate.annotator=file."
        )


def _do(context: Context, stage: str) -> bool:
    """One stage, unless its key says it is done; then one line about it. Returns whether it worked."""
    name, arm = split_stage(stage)
    title = f"{name:<10} {'' if arm == 'main' else arm + ': '}"
    if name == "map" and (context.config.map.probe or (context.run.file("probe") / "probe.json").exists()):
        sense.read_probe(
            context
        )  # the error that says what differs comes before the one that says out of date
    inputs = show.report_inputs(context) if name == "report" else context.require(stage)
    key = context.keys()[stage]
    record = context.run.stages.get(stage)
    # A page made half-way has the key of the finished one, but not its inputs.
    if record is not None and record.inputs == inputs and context.run.is_done(stage, key):
        context.run.tidy(stage)
        context.reporter.say(f"{title}{_counts(record)}  (done before)")
        return False
    _WORK[name](context, stage, key, inputs)
    context.run.tidy(stage)
    record = context.run.stages[stage]
    context.reporter.say(f"{title}{_counts(record)}  {duration(record.seconds)}")
    return True


def _counts(record: StageRecord) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in record.counts.items())
