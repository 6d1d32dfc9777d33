"""Commands beside the stages of a run: compare query strategies, plan the next labels, export the training data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ka2l.cli.options import JsonOption, OutOption, Overrides, QuietOption
from ka2l.studies.comparison.default_grid import REPETITIONS, STRATEGIES


def compare(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE.yaml", help="Recipe YAML. Omit to use the run in --out."),
    ] = None,
    overrides: Overrides = None,
    strategies: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Query strategies; `full` labels the whole pool. See docs/strategies.md for the list.",
        ),
    ] = ",".join(STRATEGIES),
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: KEY=VALUE …'",
            help="A policy with its own settings (select.*, finetune.*). Repeatable.",
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="N,M,…", help="Labels to buy. Default: half of select.budget, and all of it."),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option(metavar="N", help="Number of repetitions per cell, or a list of seeds: 3 means 0,1,2."),
    ] = str(REPETITIONS),
    target: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Held-out accuracy to reach. Default: that of the whole pool, else of random."),
    ] = None,
    out: OutOption = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Keep all tuned adapters (tens of MB each).")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare query strategies on your model and questions: facts learned per label, and facts forgotten.

    Stage 1 runs once; then every strategy, budget and seed is selected, fine-tuned and evaluated. Run the same command
    again to continue where it stopped. Several processes (one per GPU) with the same command share the work.
    """
    from ka2l.cli.output import print_json
    from ka2l.cli.which_run import choose, whole_numbers
    from ka2l.common.progress import Reporter
    from ka2l.studies.comparison.default_grid import default_budgets
    from ka2l.studies.comparison.policies import parse_policies
    from ka2l.studies.comparison.publish import publish, publish_progress
    from ka2l.studies.comparison.run_grid import Grid
    from ka2l.studies.comparison.run_grid import compare as run_comparison

    config, folder = choose(recipe, overrides or [], {}, out)
    policies = parse_policies(config, strategies.split(","), policy or [])
    chosen_budgets = whole_numbers(budgets, "--budgets") if budgets else default_budgets(config)
    grid = Grid(policies, chosen_budgets, _seeds(seeds))
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


def _seeds(text: str) -> Sequence[int]:
    """The value of --seeds: a number of repetitions, or a list of seeds."""
    from ka2l.cli.which_run import whole_numbers

    if "," in text:
        return list(dict.fromkeys(whole_numbers(text, "--seeds", least=0)))
    return range(whole_numbers(text, "--seeds")[0])


def export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A run with annotations, or a recipe.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder.")],
    overrides: Overrides = None,
    kind: Annotated[str, typer.Option("--format", help="llama-factory, jsonl, csv or chat.")] = "llama-factory",
    template: Annotated[str | None, typer.Option(help="LLaMA-Factory's name for the chat template.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Export training data and training settings for other training programs.

    For a recipe, which has no answers yet, only the training settings are written.
    """
    from ka2l.cli.output import print_values
    from ka2l.pipeline.commands.export_training_data import export as write

    named = [f"export.llama_factory_template={template}"] if template is not None else []
    print_values(write(target, to, kind, [*(overrides or []), *named]), as_json=as_json)


def plan(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_FILE...", help="Runs (compared or evaluated), or points.csv."),
    ],
    next_labels: Annotated[int, typer.Option("--next", metavar="N", help="Labels in the next batch.")] = 100,
    target: Annotated[float | None, typer.Option(help="A score to reach, such as 0.8.")] = None,
    price: Annotated[float | None, typer.Option(help="Price per label. Default: the mean cost so far.")] = None,
    least_gain: Annotated[float, typer.Option(help="Least gain in score that is worth a batch.")] = 0.01,
    score: Annotated[str, typer.Option(help="held_out, or pool (comparisons only).")] = "held_out",
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Save a figure: .svg or .png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the learning curve; forecast the next batch; recommend stop or continue."""
    from ka2l.cli.output import print_json
    from ka2l.studies.forecast.collect import collect, forecast
    from ka2l.studies.forecast.forecast_figure import save_curves
    from ka2l.studies.forecast.forecast_json import as_values
    from ka2l.studies.forecast.forecast_text import forecast_text

    collected = collect(sources, score)
    forecasts = forecast(collected, next_labels, target, price, least_gain)
    if plot is not None:
        save_curves(plot, forecasts, next_labels)
    if as_json:
        print_json(as_values(collected, forecasts))
        return
    print(forecast_text(collected, forecasts, next_labels))
    if plot is not None:
        print(f"\nDrawn: {plot}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(compare)
    app.command()(plan)
    app.command()(export)
