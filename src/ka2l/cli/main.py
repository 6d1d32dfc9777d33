"""The program `ka2l`: the commands `run`, `demo`, `check` and `env`, and the entry point.

The verbs are in `stage_commands`, the commands beside them in `study_commands`. Exit codes: 0 done, 2 user error (the
message says how to fix it), 3 the run waits for people's answers. Results go to standard output, progress and messages
to standard error.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

# Waiting threads that spin use CPU time that other threads need; must be set before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from ka2l.cli import stage_commands, study_commands
from ka2l.cli.options import JsonOption, OutOption, Overrides, QuietOption
from ka2l.common.version import __version__

_INTERRUPTED = 130

app = typer.Typer(
    help="Find out what your language model does not know, and teach it just that.\n\nStart with: ka2l demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE.yaml", help="Recipe YAML. Omit to resume the run in --out."),
    ] = None,
    overrides: Overrides = None,
    out: OutOption = None,
    model: Annotated[str | None, typer.Option(help="Model: smollm2-135m, a folder or a Hub id.")] = None,
    questions: Annotated[
        str | None, typer.Option(help="Questions: a file, a folder, a Hub dataset or geonames.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="How many labels to buy.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done and what it costs.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the whole pipeline; resumes where it stopped."""
    from ka2l.cli.output import print_json
    from ka2l.cli.run_summary import summary
    from ka2l.cli.summary_screen import print_summary
    from ka2l.cli.which_run import choose
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.pipeline.run import run as run_pipeline
    from ka2l.pipeline.run_directory import RunDirectory

    named = {"model.name": model, "questions.source": questions, "select.budget": budget}
    config, folder = choose(recipe, overrides or [], named, out)
    if dry_run:
        from ka2l.cli.preview import print_plan

        exists = (folder / "manifest.json").exists()
        begun = RunDirectory.create(folder, with_absolute_paths(config)) if exists else None
        print_plan(config, begun, as_json=as_json)
        return
    directory = run_pipeline(config, folder, Reporter(quiet=quiet))
    if as_json:
        print_json(summary(directory).values())
    else:
        print_summary(directory)


@app.command()
def demo(
    out: OutOption = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Also decode new unknown questions from hidden states.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Run a demo: a small language model and questions about real places."""
    from ka2l.cli.summary_screen import print_summary
    from ka2l.cli.which_run import demo_recipe
    from ka2l.common.progress import Reporter
    from ka2l.config.recipes import load_config
    from ka2l.pipeline.run import run as run_pipeline

    reporter = Reporter(quiet=quiet)
    chosen = "chosen by KA2L, with new questions decoded from their hidden states," if augment else "chosen by KA2L"
    reporter.say(
        "Asking SmolLM2-135M-Instruct about places of the world, ten times each, to see what it does not know;\n"
        f"then teaching it 100 answers, once {chosen} and once at random.\n"
        f"The demo takes about {25 if augment else 10} minutes on 2 cores. You can interrupt it at any time; run the "
        "same command again to continue.\n"
    )
    config = load_config(demo_recipe(augment=augment))
    folder = out or Path("runs/demo-augment" if augment else "runs/demo")
    print_summary(run_pipeline(config, folder, reporter))


stage_commands.add_to(app)


@app.command()
def check(
    question: Annotated[str, typer.Argument(help="A question.")],
    directory: Annotated[Path, typer.Option("--run", help="A run with a probe.")],
    as_json: JsonOption = False,
) -> None:
    """Predict whether the model knows the answer to a question."""
    from ka2l.cli.output import print_json
    from ka2l.pipeline.commands.check_question import check_question
    from ka2l.pipeline.run_directory import RunDirectory

    result = check_question(RunDirectory.open(directory), question)
    if as_json:
        print_json(result)
        return
    layer = "all layers" if result["layer"] < 0 else f"layer {result['layer']}"
    stand_in = f", which stands in for {result['stands_in_for']}" if result["stands_in_for"] else ""
    print(
        f"{'unknown' if result['unknown'] else 'known'}  (p_unknown = {result['p_unknown']:.2f}; probe at "
        f"{layer} of {result['model']}{stand_in})"
    )


study_commands.add_to(app)


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print versions and hardware for a bug report."""
    from ka2l.cli.environment import environment
    from ka2l.cli.output import print_values

    print_values(environment(), as_json=as_json)


def main() -> None:
    """Entry point: errors that the user can fix are printed as a message; other exceptions keep their traceback."""
    from ka2l.errors import Ka2lError

    try:
        app(standalone_mode=True)
    except Ka2lError as error:
        from ka2l.errors import WaitingForPeople

        print(f"{'waiting' if isinstance(error, WaitingForPeople) else 'error'}: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, WaitingForPeople) else 2)
    except SystemExit as end:
        # typer turns Ctrl-C into this code without a message
        if end.code == _INTERRUPTED:
            print("\ninterrupted: run the same command again to continue.", file=sys.stderr)
        raise


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
