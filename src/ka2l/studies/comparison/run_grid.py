"""Compare query strategies on one Stage 1: what each selects, and what the model learns and forgets.

    ka2l compare recipes/geo-smollm2.yaml --strategies unknown,random --budgets 50,100 --seeds 3 --out runs/geo

Stage 1 runs once. Then every cell (policy × budget × seed) selects, annotates, fine-tunes and is evaluated on its own,
under RUN/compare/cells. Cells are independent: running the same command again continues where it stopped, and if it
runs several times at once (one process per GPU), the processes share the cells.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ka2l.common import atomic_files
from ka2l.common.number_format import duration
from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import limit
from ka2l.errors import RunError
from ka2l.evaluation.protocol import BASE_PROMPTS, Item, Prediction, best_base_prompt
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.evaluation_answers import answers_to, prediction_table, read_predictions
from ka2l.studies.comparison.cell import (
    Cell,
    CellPlan,
    SharedEvaluation,
    check_answers,
    finetune_and_evaluate,
    fixed_sets,
    is_finished,
    select_and_annotate,
)
from ka2l.studies.comparison.cell_results import CellResult, Place, load, priced
from ka2l.studies.comparison.policies import FULL, Policy
from ka2l.studies.comparison.upstream import make_upstream

FOLDER = "compare"
# Questions the base model is asked per part: what a kill can lose.
_PART = 2048


class Grid(NamedTuple):
    """What is compared."""

    policies: Sequence[Policy]
    budgets: Sequence[int]
    # Numbers of the repetitions.
    seeds: Sequence[int]


class Comparison(NamedTuple):
    """The progress and the results of a comparison."""

    directory: RunDirectory
    # The results of finished cells, in the order of the grid.
    results: list[CellResult]
    planned: list[Place]
    # Cells that a process works on.
    running: list[Place]

    @property
    def waiting(self) -> int:
        """Number of cells that are not finished."""
        return len(self.planned) - len(self.results)


def compare(
    config: RunConfig,
    out: Path,
    grid: Grid,
    reporter: Reporter | None = None,
    *,
    keep_adapters: bool = False,
    on_cell: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Run every cell of the grid that is not finished and that no other process works on.

    Args:
        config: configuration of the upstream run; its `select.strategy` and `select.budget` are replaced by the grid's.
        out: the run's folder; an existing run is used as it is.
        grid: policies, budgets and seeds.
        reporter: progress.
        keep_adapters: keep the tuned adapters (tens of MB each), under RUN/compare/cells.
        on_cell: called after each cell this process has finished.

    Raises:
        Ka2lError: an error the user can fix. Finished cells are kept, and calling it again continues.
    """
    reporter = reporter or Reporter()
    _check_can_compare(config)
    directory, cells, shared = _prepare(config, out, grid, reporter)
    worked = True
    # Repeat until nothing is left: a cell may have been skipped because another process had it, which has ended since.
    while worked:
        worked = False
        for cell in cells:
            if _run_cell(cell, shared, reporter, keep_adapters):
                worked = True
                if on_cell is not None:
                    on_cell(_progress(directory, cells))
    return _progress(directory, cells)


def _run_cell(cell: Cell, shared: SharedEvaluation, reporter: Reporter, keep_adapter: bool) -> bool:
    """Run a cell; returns False if it is finished already, or another process works on it."""
    with cell.claimed() as mine:
        if not mine:
            return False
        if is_finished(cell):
            if not keep_adapter:
                # A process may have been killed before it removed the adapter.
                atomic_files.remove(cell.file("adapter"))
            return False
        plan = cell.plan
        before = cell.stages.get("outcomes")
        again = before is not None and before.state == "done"
        reporter.say(
            f"compare    {plan.policy}, {plan.budget} labels, seed {plan.seed}"
            f"{': settings have changed since it was done, so it is done again' if again else ''}"
        )
        finetune_and_evaluate(cell, shared, reporter, keep_adapter=keep_adapter)
    reporter.say(f"           {_cell_line(load(cell.path))}")
    return True


def _progress(directory: RunDirectory, cells: Sequence[Cell]) -> Comparison:
    """The finished cells with their results, and the cells that a process works on."""
    results, running = [], []
    for cell in cells:
        cell.read_again()
        if is_finished(cell):
            results.append(priced(load(cell.path), directory.config.annotate.cost_per_label))
            continue
        with cell.claimed() as mine:
            if not mine:
                running.append(cell.plan.place)
    return Comparison(directory, results, [cell.plan.place for cell in cells], running)


def cell_plans(config: RunConfig, grid: Grid, pool: int) -> list[CellPlan]:
    """The plans of all cells. The first seed of all policies and budgets comes first, so that early results cover all.

    A budget of the whole pool is the same for every strategy, so only `full` has it.
    """
    plans = []
    # Settings that a cell does not read get fixed values, so that changing them does not train the cell again.
    unread = {
        "augment": {"per_question": 0},
        "evaluate": {"bootstrap": 1000},
        "annotate": {"cost_per_label": 0.0},
    }
    common = config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in unread.items()}
    )
    for seed in grid.seeds:
        for policy in grid.policies:
            for budget in [pool] if policy.name == FULL else sorted(set(grid.budgets)):
                select = policy.config.select.model_copy(
                    update={"budget": budget, "baseline": None, "seed": config.seed + seed}
                )
                tuning = policy.config.finetune.model_copy(update={"seed": config.seed + seed})
                cell = common.model_copy(update={"select": select, "finetune": tuning})
                plans.append(CellPlan(policy.name, budget, seed, cell))
    return plans


def _prepare(
    config: RunConfig, out: Path, grid: Grid, reporter: Reporter
) -> tuple[RunDirectory, list[Cell], SharedEvaluation]:
    """Run Stage 1, select and label in every cell, and ask the base model. One process does it; others wait for it."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.parent / f".{out.name}.compare.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.say(f"{out}: another process prepares the comparison; waiting for it.")
        lock.acquire()
    try:

        def check(context: Context) -> None:
            check_answers(context)
            _check_budgets(grid, context.run.stages["load"].counts["pool"])

        directory = make_upstream(config, out, [policy.config for policy in grid.policies], reporter, check)
        plans = cell_plans(directory.config, grid, directory.stages["load"].counts["pool"])
        cells = [Cell(directory, out / FOLDER / "cells" / plan.name, plan) for plan in plans]
        return directory, cells, _ask_base(context_of(directory, reporter), cells, reporter)
    finally:
        lock.release()


def _ask_base(context: Context, cells: Sequence[Cell], reporter: Reporter) -> SharedEvaluation:
    """Get the base model's answers to everything any cell is asked. Answers it has given before are read from disk."""
    held_out, pool = fixed_sets(context)
    fixed, wanted = set(held_out), dict.fromkeys(pool)
    for cell in cells:
        wanted.update(dict.fromkeys(_cell_items(cell, reporter)))
    questions = context.questions_by_id({question_id for question_id, _, _ in (*held_out, *wanted)})
    base = _BaseAnswers(context)
    for prompt in BASE_PROMPTS:
        base.ask(f"base:{prompt}", held_out)
    prompt = best_base_prompt(base.predictions, questions, None, context.config.measure.correct)
    base.ask(f"base:{prompt}", [item for item in wanted if item not in fixed])
    context.release()
    texts = {(p.question_id, p.wording): p.text for p in base.predictions if p.model == f"base:{prompt}"}
    return SharedEvaluation(questions, held_out, pool, texts)


def _cell_items(cell: Cell, reporter: Reporter) -> list[Item]:
    """What a cell is asked besides the fixed sets; its questions are selected now if they are not yet."""
    with cell.claimed() as mine:
        if not mine:
            cell.read_again()
        return select_and_annotate(cell, reporter)


class _BaseAnswers:
    """The base model's answers, saved in parts in a folder named by the key of what they depend on."""

    def __init__(self, context: Context):
        self.context = context
        self.folder = context.run.path / FOLDER / f"base-{context.base_key}"
        self.predictions: list[Prediction] = [
            prediction for part in atomic_files.parts(self.folder, ".parquet") for prediction in read_predictions(part)
        ]

    def ask(self, name: str, items: Sequence[Item]) -> None:
        """Ask the model the questions it has not been asked before."""
        known = {(p.question_id, p.wording) for p in self.predictions if p.model == name}
        new = [item for item in items if item[:2] not in known]
        if not new:
            return
        self.context.reporter.say(f"base model  {len(new):,} questions ({name.partition(':')[2]} prompt)")
        for start in range(0, len(new), _PART):
            answers = answers_to(self.context, name, new[start : start + _PART])
            atomic_files.write_table(atomic_files.next_part(self.folder, ".parquet"), prediction_table(answers))
            self.predictions += answers


def _check_can_compare(config: RunConfig) -> None:
    """Refuse a model that cannot be fine-tuned, and answers from people, before anything is paid for."""
    end = limit(config)
    if end is not None:
        raise RunError(f"A comparison fine-tunes and evaluates, and that is not possible here. {end.why}")
    if config.annotate.annotator != "gold":
        raise RunError(
            "A comparison labels many sets of questions, so it needs the answers to the whole pool: set "
            "annotate.annotator=gold, with answers in the file of questions."
        )


def _check_budgets(grid: Grid, pool: int) -> None:
    over = [budget for budget in grid.budgets if budget >= pool]
    if over:
        raise RunError(
            f"--budgets {', '.join(map(str, over))}: the pool has {pool} questions, so every strategy would select all "
            f"of them. Choose budgets under {pool}; the policy `{FULL}` selects the whole pool once."
        )


def _cell_line(result: CellResult) -> str:
    """The results of one finished cell in one line."""
    held_out, selected = result.sets["held_out"], result.sets["bought"]
    learned = int((~selected.before & selected.after).sum())
    forgotten = int((held_out.before & ~held_out.after).sum())
    seconds = result.finetune_seconds + result.evaluate_seconds
    return (
        f"held out {held_out.before.mean():.1%} → {held_out.after.mean():.1%}, learned {learned} of {result.labels} "
        f"({learned / max(result.labels, 1):.2f} a label), forgot {forgotten} of {int(held_out.before.sum())}  "
        f"{duration(seconds, plain=True)}"
    )
