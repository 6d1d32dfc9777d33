"""Commands around a run: compare query strategies, plan what to buy next, export what is taught."""

from pathlib import Path
from typing import Annotated

import typer

from ka2l.cli.options import JsonOption, OutOption, Overrides, QuietOption


def compare(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE.yaml", help="The recipe; none: that of the run in --out."),
    ] = None,
    overrides: Overrides = None,
    strategies: Annotated[
        str,
        typer.Option(
            metavar="A,B,…", help="Query strategies; `full` buys the whole pool. docs/strategies.md has all."
        ),
    ] = "unknown,random",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: KEY=VALUE …'",
            help="A row with settings of its own (select.*, finetune.*). Repeatable.",
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="N,M,…", help="Labels to buy; none: half of select.budget, and all of it."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N", help="Repetitions of every cell, or their numbers: 3 is 0,1,2.")
    ] = "3",
    target: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Held-out share to reach; none: what the whole pool or random reaches."
        ),
    ] = None,
    out: OutOption = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Keep every tuned adapter (tens of MB each).")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare query strategies on your model and questions: what each teaches per label, and what it makes forget.

    Stage 1 is done once; then every strategy, budget and seed is bought, taught and evaluated. The same command goes on
    where it stopped; started several times at once (one process a GPU), the processes share the work.
    """
    from ka2l.cli.run_summary import print_json
    from ka2l.cli.which_run import choose, whole_numbers
    from ka2l.common.progress import Reporter
    from ka2l.studies.comparison.policies import parse_policies
    from ka2l.studies.comparison.publish import publish, publish_progress
    from ka2l.studies.comparison.run_grid import Grid
    from ka2l.studies.comparison.run_grid import compare as run_comparison

    config, folder = choose(recipe, overrides or [], {}, out)
    policies = parse_policies(config, strategies.split(","), policy or [])
    half = sorted({max(1, config.select.budget // 2), config.select.budget})
    several = "," in seeds
    numbers = whole_numbers(seeds, "--seeds", least=0 if several else 1)
    repetitions = list(dict.fromkeys(numbers)) if several else range(numbers[0])
    grid = Grid(policies, whole_numbers(budgets, "--budgets") if budgets else half, repetitions)
    reporter = Reporter(quiet=quiet)
    comparison = run_comparison(
        config,
        folder,
        grid,
        reporter,
        keep_adapters=keep_adapters,
        on_cell=lambda so_far: publish_progress(so_far, grid, reporter, target),
    )
    published = publish(comparison, grid, target)
    if as_json:
        print_json(published.values)
    else:
        print(published.text)


def export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A run with annotations, or a recipe.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")],
    overrides: Overrides = None,
    kind: Annotated[
        str, typer.Option("--format", help="llama-factory, jsonl, csv or chat.")
    ] = "llama-factory",
    template: Annotated[str | None, typer.Option(help="LLaMA-Factory's name of the chat template.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write what is taught, and how, for other training programs.

    Of a recipe, which has no answers yet, only the settings of the training.
    """
    from ka2l.cli.run_summary import print_values
    from ka2l.pipeline.commands.export_training_data import export as write

    named = [f"export.llama_factory_template={template}"] if template is not None else []
    print_values(write(target, to, kind, [*(overrides or []), *named]), as_json=as_json)


def plan_(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_FILE...", help="Runs with a comparison or evaluated, or points.csv."),
    ],
    next_labels: Annotated[int, typer.Option("--next", metavar="N", help="Labels in the next batch.")] = 100,
    target: Annotated[float | None, typer.Option(help="A score to reach, such as 0.8.")] = None,
    price: Annotated[float | None, typer.Option(help="Of a label; none: what one cost so far.")] = None,
    least_gain: Annotated[float, typer.Option(help="What a batch must add to the score, else stop.")] = 0.01,
    score: Annotated[str, typer.Option(help="held_out, or pool (of a comparison).")] = "held_out",
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: an .svg or .png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What the next labels should buy, by the learning curve so far, and whether to stop."""
    from ka2l.cli.forecast_text import plan

    plan(
        sources,
        next_labels=next_labels,
        target=target,
        price=price,
        least_gain=least_gain,
        score=score,
        plot=plot,
        as_json=as_json,
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(compare)
    app.command("plan")(plan_)
    app.command()(export)
