"""Several query strategies on one set of upstream artifacts: what each buys, teaches and makes forget.

    ka2l compare recipes/geo-smollm2.yaml --strategies unknown,random --budgets 50,100 --seeds 3 --out runs/geo

Stage 1 is done once. Then every cell (policy × budget × seed) selects, annotates, fine-tunes and is evaluated on its own,
under RUN/compare/cells. Cells do not know of each other: the same command started again goes on, and started several
times at once (one process a GPU) the processes share the cells.
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
    Asked,
    Cell,
    CellPlan,
    buy,
    check_answers,
    fixed_sets,
    is_finished,
    teach,
)
from ka2l.studies.comparison.cell_results import CellResult, Place, load, priced
from ka2l.studies.comparison.policies import FULL, Policy
from ka2l.studies.comparison.upstream import make_upstream

FOLDER = "compare"
_PART = 2048  # questions the base model is asked at a time: what a kill can cost


class Grid(NamedTuple):
    """What is compared."""

    policies: Sequence[Policy]
    budgets: Sequence[int]
    seeds: Sequence[int]  # numbers of the repetitions


class Comparison(NamedTuple):
    """How far a comparison is."""

    directory: RunDirectory
    results: list[CellResult]  # finished cells, in the order of the grid
    planned: list[Place]
    running: list[Place]  # cells some process works on

    @property
    def waiting(self) -> int:
        """How many cells are not finished."""
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
    """Do every cell of the grid that is not done and that nobody else works on.

    Args:
        config: of the upstream run; its `select.strategy` and `select.budget` give way to the grid's.
        out: the run's folder; a run that is there is used as it is.
        grid: policies, budgets and seeds.
        reporter: progress.
        keep_adapters: keep the tuned adapters (tens of MB each), under RUN/compare/cells.
        on_cell: called after each cell this process has done.

    Raises:
        Ka2lError: something the user can mend; finished cells stay, and the same call goes on.
    """
    reporter = reporter or Reporter()
    _check_teaches(config)
    directory, cells, asked = _prepare(config, out, grid, reporter)
    worked = True
    while worked:  # once more: a cell may have been passed over because another process, gone since, had it
        worked = False
        for cell in cells:
            if _done_now(cell, asked, reporter, keep_adapters):
                worked = True
                if on_cell is not None:
                    on_cell(_state(directory, cells))
    return _state(directory, cells)


def _done_now(cell: Cell, asked: Asked, reporter: Reporter, keep_adapter: bool) -> bool:
    """Do a cell; False where it is done, or another process has it."""
    with cell.claimed() as mine:
        if not mine:
            return False
        if is_finished(cell):
            if not keep_adapter:
                atomic_files.remove(cell.file("adapter"))  # a kill may have come before this
            return False
        plan = cell.plan
        before = cell.stages.get("outcomes")
        again = before is not None and before.state == "done"
        reporter.say(
            f"compare    {plan.policy}, {plan.budget} labels, seed {plan.seed}"
            f"{': settings have changed since it was done, so it is done again' if again else ''}"
        )
        teach(cell, asked, reporter, keep_adapter=keep_adapter)
    reporter.say(f"           {_line(load(cell.path))}")
    return True


def _state(directory: RunDirectory, cells: Sequence[Cell]) -> Comparison:
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
    """Every cell: the first seed of all policies and budgets first, so that a first look comes early.

    A budget of the whole pool is the same for every strategy: only `full` has it.
    """
    plans = []
    # What a cell does not read is the same in all, so that nobody trains again for another width of intervals.
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
) -> tuple[RunDirectory, list[Cell], Asked]:
    """Stage 1, what every cell buys, and the base model's answers: by one process, while others wait for it."""
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


def _ask_base(context: Context, cells: Sequence[Cell], reporter: Reporter) -> Asked:
    """The base model's answers to everything any cell is asked; only what is new is asked."""
    held_out, pool = fixed_sets(context)
    fixed, wanted = set(held_out), dict.fromkeys(pool)
    for cell in cells:
        wanted.update(dict.fromkeys(_bought(cell, reporter)))
    questions = context.questions_by_id({question_id for question_id, _, _ in (*held_out, *wanted)})
    base = _Base(context)
    for prompt in BASE_PROMPTS:
        base.ask(f"base:{prompt}", held_out)
    prompt = best_base_prompt(base.said, questions, None, context.config.measure.correct)
    base.ask(f"base:{prompt}", [item for item in wanted if item not in fixed])
    context.release()
    texts = {(p.question_id, p.wording): p.text for p in base.said if p.model == f"base:{prompt}"}
    return Asked(questions, held_out, pool, texts)


def _bought(cell: Cell, reporter: Reporter) -> list[Item]:
    """What a cell is asked besides the fixed sets; bought now, unless another process has the cell."""
    with cell.claimed() as mine:
        if not mine:
            cell.read_again()
        return buy(cell, reporter)


class _Base:
    """The base model's answers, in parts on disk under the key of what they depend on."""

    def __init__(self, context: Context):
        self.context = context
        self.folder = context.run.path / FOLDER / f"base-{context.base_key}"
        self.said: list[Prediction] = [
            prediction
            for part in atomic_files.parts(self.folder, ".parquet")
            for prediction in read_predictions(part)
        ]

    def ask(self, name: str, items: Sequence[Item]) -> None:
        """Ask what has not been asked before."""
        known = {(p.question_id, p.wording) for p in self.said if p.model == name}
        new = [item for item in items if item[:2] not in known]
        if not new:
            return
        self.context.reporter.say(f"base model  {len(new):,} questions ({name.partition(':')[2]} prompt)")
        for start in range(0, len(new), _PART):
            answers = answers_to(self.context, name, new[start : start + _PART])
            atomic_files.write_table(
                atomic_files.next_part(self.folder, ".parquet"), prediction_table(answers)
            )
            self.said += answers


def _check_teaches(config: RunConfig) -> None:
    """Refuse, before anything is asked or paid for, what cannot be taught, or only by people."""
    end = limit(config)
    if end is not None:
        raise RunError(f"A comparison teaches and evaluates, and that is not possible here. {end.why}")
    if config.annotate.annotator != "gold":
        raise RunError(
            "A comparison buys many sets of questions, so it needs the answers to the whole pool: set "
            "annotate.annotator=gold, with answers in the file of questions."
        )


def _check_budgets(grid: Grid, pool: int) -> None:
    over = [budget for budget in grid.budgets if budget >= pool]
    if over:
        raise RunError(
            f"--budgets {', '.join(map(str, over))}: the pool has {pool} questions, so every strategy would buy all of "
            f"them. Choose budgets under {pool}; the policy `{FULL}` buys the whole pool once."
        )


def _line(result: CellResult) -> str:
    """One finished cell in one line."""
    held, bought = result.sets["held_out"], result.sets["bought"]
    learned = int((~bought.before & bought.after).sum())
    forgotten = int((held.before & ~held.after).sum())
    seconds = result.finetune_seconds + result.evaluate_seconds
    return (
        f"held out {held.before.mean():.1%} → {held.after.mean():.1%}, learned {learned} of {result.labels} "
        f"({learned / max(result.labels, 1):.2f} a label), forgot {forgotten} of {int(held.before.sum())}  "
        f"{duration(seconds, plain=True)}"
    )
