"""The command line: one thin function per verb, plus run, demo, import, check and env.

Exit codes: 0 done, 2 something the user can mend (the message says how), 3 the run waits for people's answers.
Results go to standard output, progress and messages to standard error.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

# Threads that wait in a spin eat the very cores the others need; must be set before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from ka2l.cli import study_commands
from ka2l.cli.options import JsonOption, OutOption, Overrides, QuietOption, RunArgument
from ka2l.common.version import __version__

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
    from ka2l.cli.run_summary import print_json, print_summary, summary
    from ka2l.cli.which_run import choose
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.pipeline.run import run as run_pipeline
    from ka2l.pipeline.run_directory import RunDirectory

    named = {"model.name": model, "questions.source": questions, "select.budget": budget}
    config, folder = choose(recipe, overrides or [], named, out)
    if dry_run:
        from ka2l.cli.preview import print_plan

        there = (folder / "manifest.json").exists()
        begun = RunDirectory.create(folder, with_absolute_paths(config)) if there else None
        print_plan(config, begun, as_json=as_json)
        return
    directory = run_pipeline(config, folder, Reporter(quiet=quiet))
    if as_json:
        print_json(summary(directory))
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
    """See it work: a small real model and real places."""
    from ka2l.cli.run_summary import print_summary
    from ka2l.cli.which_run import demo_recipe
    from ka2l.common.progress import Reporter
    from ka2l.config.recipes import load_config
    from ka2l.pipeline.run import run as run_pipeline

    reporter = Reporter(quiet=quiet)
    chosen = (
        "chosen by KA2L, with new questions decoded from their hidden states,"
        if augment
        else "chosen by KA2L"
    )
    reporter.say(
        "Asking SmolLM2-135M-Instruct about places of the world, ten times each, to see what it does not know;\n"
        f"then teaching it 100 answers, once {chosen} and once at random.\n"
        f"The whole takes about {25 if augment else 10} minutes on 2 cores; interrupt it whenever you like, the same command "
        "goes on.\n"
    )
    config = load_config(demo_recipe(augment=augment))
    folder = out or Path("runs/demo-augment" if augment else "runs/demo")
    print_summary(run_pipeline(config, folder, reporter))


@app.command()
def load(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")],
    overrides: Overrides = None,
    out: OutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Start a run: read, check and divide the questions."""
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.config.recipes import load_config
    from ka2l.pipeline.run import run_verb
    from ka2l.pipeline.run_directory import RunDirectory

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


@app.command("import")
def import_(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run whose questions are loaded, or a new folder.")
    ],
    file: Annotated[Path, typer.Argument(metavar="answers.jsonl", help="Answers, one JSON object a line.")],
    overrides: Overrides = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let them take the place of answers that are there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take in answers made elsewhere, in place of `sample`; then `measure` needs no model.

    A line holds `id` or `question`, `answers` (texts, or objects with text, token_logprobs and finish_reason), and if
    there are any `low_temperature_answer` (the one that is judged right or wrong), `gold` (right answers) and `group`.
    In a new folder the questions come from the file. docs/import.md has the details.
    """
    from ka2l.cli.run_summary import print_values
    from ka2l.common.progress import Reporter
    from ka2l.pipeline.commands.import_answers import import_answers

    reporter = Reporter(quiet=quiet)
    run = import_answers(directory, file, overrides or [], replace=replace, reporter=reporter)
    counts = run.stages["sample"].counts
    print_values({"run": str(directory), **counts, "samples": run.config.sample.n}, as_json=as_json)


@app.command()
def sample(
    directory: RunArgument,
    overrides: Overrides = None,
    show_prompts: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Print the prompts of the first N questions as they are sent, and stop."
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample answers and hidden states; more of them where sample.n has grown."""
    from ka2l.cli.preview import print_prompts
    from ka2l.pipeline.run_directory import RunDirectory

    if show_prompts is not None:
        print_prompts(RunDirectory.open(directory, overrides or []), show_prompts, as_json=as_json)
    else:
        _verb("sample", directory, overrides, as_json, quiet)


_add_verb("measure", "Semantic entropy and the known/unknown threshold.")
_add_verb("probe", "Train a probe on every layer and keep the best.")


@app.command("map")
def map_(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The run directory; with --probe and --questions a new one.")
    ],
    overrides: Overrides = None,
    probe: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A probe trained before, or its Hub id: Stage 1 is not run."),
    ] = None,
    questions: Annotated[
        str | None, typer.Option(help="The pool of a new run: a file, a folder, a Hub dataset.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Map the pool into known and unknown."""
    from ka2l.cli.which_run import with_probe

    settings = with_probe(directory, list(overrides or []), probe, questions, quiet=quiet)
    _verb("map", directory, settings, as_json, quiet)


_add_verb("select", "Choose what to buy with the budget.")
_add_verb("augment", "Decode new unknown questions from the hidden states of the selected ones.")


@app.command()
def annotate(
    directory: RunArgument,
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the questions that wait for an answer to this CSV.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--import", help="Read answers from this CSV.")] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Let --export replace a sheet that has answers in it.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Get the answers: gold ones, or from people."""
    from ka2l.cli.run_summary import print_values
    from ka2l.errors import ConfigError
    from ka2l.pipeline.commands.answer_sheets import export_sheet, import_sheet
    from ka2l.pipeline.run_directory import RunDirectory

    if export is not None and sheet is not None:
        raise ConfigError("Give --export or --import, not both.")
    if export is not None:
        values = export_sheet(RunDirectory.open(directory, overrides or []), export, overwrite=overwrite)
    elif sheet is not None:
        values = import_sheet(RunDirectory.open(directory, overrides or []), sheet)
    else:
        _verb("annotate", directory, overrides, as_json, quiet)
        return
    print_values(values, as_json=as_json)


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
    from ka2l.cli.run_summary import print_json
    from ka2l.pipeline.commands.check_question import check_question
    from ka2l.pipeline.run_directory import RunDirectory

    result = check_question(RunDirectory.open(directory), question)
    if as_json:
        print_json(result)
    else:
        word = "unknown" if result["unknown"] else "known"
        stands = f", which stands in for {result['stands_in_for']}" if result["stands_in_for"] else ""
        print(
            f"{word}  (p_unknown = {result['p_unknown']:.2f}; probe at "
            f"{'all layers' if result['layer'] < 0 else 'layer ' + str(result['layer'])} of {result['model']}{stands})"
        )


study_commands.add_to(app)


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print versions and hardware for a bug report."""
    from ka2l.cli.run_summary import environment, print_values

    print_values(environment(), as_json=as_json)


_INTERRUPTED = 130


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

    from ka2l.cli.run_summary import print_json, sampling_line
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.errors import ConfigError
    from ka2l.pipeline.run import run_verb
    from ka2l.pipeline.run_directory import RunDirectory

    opened = RunDirectory.open(directory, overrides or [])
    opened.config = with_absolute_paths(opened.config)
    if verb == "report" and any(not override.startswith("report.") for override in overrides or []):
        raise ConfigError(
            "`report` shows what the run has: only report.* can be set. For the rest: ka2l run --out DIR"
        )
    stages = run_verb(verb, opened, Reporter(quiet=quiet))
    if as_json:
        print_json({stage: asdict(opened.stages[stage]) for stage in stages})
    elif verb == "report":
        print(opened.file("report.html"))
    elif verb == "sample":
        print(sampling_line(opened.stages["sample"]))


if __name__ == "__main__":
    main()
