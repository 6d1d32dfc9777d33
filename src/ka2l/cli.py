"""The command line: one thin function per verb, plus run, demo, check and env.

Exit codes: 0 done, 2 something the user can mend (the message says how), 3 the run waits for people's answers.
Results go to standard output, progress and messages to standard error.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

# Threads that wait in a spin eat the very cores the others need; must be set before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from ka2l import __version__

app = typer.Typer(
    help="Find out what your language model does not know, and teach it just that.\n\nStart with: ka2l demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings on top, such as sample.n=5."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run directory; made, or continued.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]


@app.command()
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE.yaml", help="The recipe; none: go on with the run in --out."),
    ] = None,
    overrides: Overrides = None,
    out: OutOption = None,
    model: Annotated[str | None, typer.Option(help="Model: smollm2-135m, a folder or a Hub id.")] = None,
    questions: Annotated[
        str | None, typer.Option(help="Questions: a file, a folder, a Hub dataset or geonames.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="How many labels to buy.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what it costs.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Do all that is not done yet, from questions to report."""
    from ka2l.errors import ConfigError
    from ka2l.pipeline import run as run_pipeline
    from ka2l.progress import Reporter
    from ka2l.recipe import load_config
    from ka2l.store import RunDirectory
    from ka2l.summary import print_plan, print_summary, summary

    extra = list(overrides or [])
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        extra.insert(0, recipe)
        recipe = None
    for key, value in (("model.name", model), ("questions.source", questions), ("select.budget", budget)):
        if value is not None:
            extra.append(f"{key}={value}")
    if recipe is None and out is not None and (out / "manifest.json").exists():
        config = RunDirectory.open(out, extra).config
    elif recipe is None and questions is None and not any(e.startswith("questions.source=") for e in extra):
        raise ConfigError(
            "Nothing to run. Give a recipe (ka2l run recipes/geo-smollm2.yaml --out DIR), or --model, --questions and "
            "--budget, or the --out of a run to go on with."
        )
    else:
        config = load_config(Path(recipe) if recipe else None, extra)
    if dry_run:
        print_plan(config, as_json=as_json)
        return
    folder = out or _default_out(config, recipe)
    directory = run_pipeline(config, folder, Reporter(quiet=quiet))
    if as_json:
        _print_json(summary(directory))
    else:
        print_summary(directory)


@app.command()
def demo(out: OutOption = None, quiet: QuietOption = False) -> None:
    """See it work: a small real model and real places."""
    from ka2l.pipeline import run as run_pipeline
    from ka2l.progress import Reporter
    from ka2l.recipe import load_config
    from ka2l.summary import print_summary

    reporter = Reporter(quiet=quiet)
    reporter.say(
        "Asking SmolLM2-135M-Instruct about places of the world, ten times each, to see what it does not know;\n"
        "then teaching it 100 answers, once chosen by KA2L and once at random. The whole takes about 10 minutes\n"
        "on 2 cores; interrupt it whenever you like, the same command goes on.\n"
    )
    config = load_config(demo_recipe())
    print_summary(run_pipeline(config, out or Path("runs/demo"), reporter))


@app.command()
def load(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")],
    overrides: Overrides = None,
    out: OutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Start a run: read, check and divide the questions."""
    from ka2l.pipeline import run_verb, with_absolute_paths
    from ka2l.progress import Reporter
    from ka2l.recipe import load_config
    from ka2l.store import RunDirectory

    config = load_config(recipe, list(overrides or []))
    folder = out or Path("runs") / recipe.stem
    run_verb("load", RunDirectory.create(folder, with_absolute_paths(config)), Reporter(quiet=quiet))
    print(folder)


def _add_verb(verb: str, text: str) -> None:
    """A command that runs one verb on a run directory."""

    @app.command(verb, help=text)
    def command(
        directory: RunArgument,
        overrides: Overrides = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        _verb(verb, directory, overrides, as_json, quiet)


_add_verb("sample", "Sample answers and hidden states.")
_add_verb("measure", "Semantic entropy and the known/unknown threshold.")
_add_verb("probe", "Train a probe on every layer and keep the best.")
_add_verb("map", "Map the pool into known and unknown.")
_add_verb("select", "Choose what to buy with the budget.")


@app.command()
def annotate(
    directory: RunArgument,
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the questions that wait for an answer to this CSV.")
    ] = None,
    import_: Annotated[Path | None, typer.Option("--import", help="Read answers from this CSV.")] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Let --export replace a sheet that has answers in it.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Get the answers: gold ones, or from people."""
    from ka2l.errors import ConfigError
    from ka2l.pipeline.people import export_sheet, import_sheet
    from ka2l.store import RunDirectory

    if export is not None and import_ is not None:
        raise ConfigError("Give --export or --import, not both.")
    if export is not None:
        _print(
            as_json, export_sheet(RunDirectory.open(directory, overrides or []), export, overwrite=overwrite)
        )
    elif import_ is not None:
        _print(as_json, import_sheet(RunDirectory.open(directory, overrides or []), import_))
    else:
        _verb("annotate", directory, overrides, as_json, quiet)


_add_verb("finetune", "Teach the model what was bought, with LoRA.")
_add_verb("evaluate", "Base against tuned: what was learned and forgotten.")
_add_verb("report", "Write report.html from what the run has so far.")


@app.command()
def check(
    question: Annotated[str, typer.Argument(help="A question.")],
    directory: Annotated[Path, typer.Option("--run", help="A run with a probe.")],
    as_json: JsonOption = False,
) -> None:
    """Does the model know the answer to a question?"""
    from ka2l.pipeline.people import check_question
    from ka2l.store import RunDirectory

    result = check_question(RunDirectory.open(directory), question)
    if as_json:
        _print_json(result)
    else:
        word = "unknown" if result["unknown"] else "known"
        print(
            f"{word}  (p_unknown = {result['p_unknown']:.2f}; probe at layer {result['layer']} of {result['model']})"
        )


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print versions and hardware for a bug report."""
    from ka2l.summary import environment

    _print(as_json, environment())


_INTERRUPTED = 130


def _default_out(config: Any, recipe: str | None) -> Path:
    """Where a run without --out goes; another model or other questions never land in an older run's folder."""
    source = Path(config.questions.source).stem
    return Path("runs") / (Path(recipe).stem if recipe else f"{source}-{Path(config.model.name).name}")


def demo_recipe() -> Path:
    """The recipe of the demo, as installed with the package."""
    from importlib.resources import files

    return Path(str(files("ka2l") / "recipes" / "geo-smollm2.yaml"))


def main() -> None:
    """Entry point: errors of the user's are told in words, with exit code 2; the rest keep their traceback."""
    from ka2l.errors import Ka2lError

    try:
        app(standalone_mode=True)
    except Ka2lError as error:
        from ka2l.errors import WaitingForPeople

        print(f"{'waiting' if isinstance(error, WaitingForPeople) else 'error'}: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, WaitingForPeople) else 2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer turns Ctrl-C into this code and says nothing
            print("\ninterrupted: the same command goes on from here.", file=sys.stderr)
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


def _verb(verb: str, directory: Path, overrides: list[str] | None, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from ka2l.errors import ConfigError
    from ka2l.pipeline import run_verb
    from ka2l.progress import Reporter
    from ka2l.store import RunDirectory

    opened = RunDirectory.open(directory, overrides or [])
    if verb == "report" and any(not override.startswith("report.") for override in overrides or []):
        raise ConfigError(
            "`report` shows what the run has: only report.* can be set. For the rest: ka2l run --out DIR"
        )
    stages = run_verb(verb, opened, Reporter(quiet=quiet))
    if as_json:
        _print_json({stage: asdict(opened.stages[stage]) for stage in stages})
    elif verb == "report":
        print(opened.file("report.html"))


def _print(as_json: bool, values: dict[str, Any]) -> None:
    if as_json:
        _print_json(values)
        return
    width = max(len(name) for name in values) + 2
    for name, value in values.items():
        print(f"{name + ':':<{width}} {value}")


def _print_json(values: Any) -> None:
    print(json.dumps(values, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
