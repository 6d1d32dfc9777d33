"""The commands that run one verb on a run directory, from `load` to `report`, and `import`, which replaces `sample`."""

from pathlib import Path
from typing import Annotated

import typer

from ka2l.cli.options import JsonOption, OutOption, Overrides, QuietOption, RunArgument


def load(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")],
    overrides: Overrides = None,
    out: OutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Start a run: read, check and split the questions."""
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.config.recipes import load_config
    from ka2l.pipeline.run import run_verb
    from ka2l.pipeline.run_directory import RunDirectory

    config = load_config(recipe, list(overrides or []))
    folder = out or Path("runs") / recipe.stem
    run_verb("load", RunDirectory.create(folder, with_absolute_paths(config)), Reporter(quiet=quiet))
    print(folder)


def import_(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run whose questions are loaded, or a new folder.")
    ],
    file: Annotated[Path, typer.Argument(metavar="answers.jsonl", help="Answers, one JSON object per line.")],
    overrides: Overrides = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite existing answers.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Import pre-generated answers (replaces `sample`). `measure` then needs no model.

    Each line has `id` or `question`, `answers` (texts, or objects with text, token_logprobs and finish_reason), and
    optionally `low_temperature_answer` (the one that is judged right or wrong), `gold` (right answers) and `group`. In
    a new folder the questions come from this file. See docs/import.md for details.
    """
    from ka2l.cli.output import print_values
    from ka2l.common.progress import Reporter
    from ka2l.pipeline.commands.import_answers import import_answers

    reporter = Reporter(quiet=quiet)
    run = import_answers(directory, file, overrides or [], replace=replace, reporter=reporter)
    counts = run.stages["sample"].counts
    print_values({"run": str(directory), **counts, "samples": run.config.sample.n}, as_json=as_json)


def sample(
    directory: RunArgument,
    overrides: Overrides = None,
    show_prompts: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Print the exact prompts of the first N questions, and stop."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample answers and hidden states; adds answers after sample.n was raised."""
    from ka2l.cli.preview import print_prompts
    from ka2l.pipeline.run_directory import RunDirectory

    if show_prompts is not None:
        print_prompts(RunDirectory.open(directory, overrides or []), show_prompts, as_json=as_json)
    else:
        run_one_verb("sample", directory, overrides, as_json, quiet)


def map_(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The run directory; with --probe and --questions a new one."),
    ],
    overrides: Overrides = None,
    probe: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A trained probe (folder or Hub id); Stage 1 is not run."),
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
    run_one_verb("map", directory, settings, as_json, quiet)


def annotate(
    directory: RunArgument,
    overrides: Overrides = None,
    export: Annotated[Path | None, typer.Option(help="Write the questions without a label to this CSV.")] = None,
    sheet: Annotated[Path | None, typer.Option("--import", help="Read answers from this CSV.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Let --export overwrite a sheet that has answers in it.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Collect labels: from gold data or a spreadsheet."""
    from ka2l.cli.output import print_values
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
        run_one_verb("annotate", directory, overrides, as_json, quiet)
        return
    print_values(values, as_json=as_json)


def run_one_verb(verb: str, directory: Path, overrides: list[str] | None, as_json: bool, quiet: bool) -> None:
    """Run the stages of a verb, and print their records as JSON, or the verb's own result."""
    from dataclasses import asdict

    from ka2l.cli.output import print_json
    from ka2l.cli.summary_screen import sampling_line
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.errors import ConfigError
    from ka2l.pipeline.run import run_verb
    from ka2l.pipeline.run_directory import RunDirectory

    opened = RunDirectory.open(directory, overrides or [])
    opened.config = with_absolute_paths(opened.config)
    if verb == "report" and any(not override.startswith("report.") for override in overrides or []):
        raise ConfigError(
            "`report` writes the page from existing results: only report.* can be set. For other settings: "
            "ka2l run --out DIR"
        )
    stages = run_verb(verb, opened, Reporter(quiet=quiet))
    if as_json:
        print_json({stage: asdict(opened.stages[stage]) for stage in stages})
    elif verb == "report":
        print(opened.file("report.html"))
    elif verb == "sample":
        print(sampling_line(opened.stages["sample"]))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program, in the order of the verbs."""
    app.command()(load)
    app.command("import")(import_)
    app.command()(sample)
    _add_verb(app, "measure", "Compute semantic entropy and the known/unknown threshold.")
    _add_verb(app, "probe", "Train a probe on every layer and keep the best.")
    app.command("map")(map_)
    _add_verb(app, "select", "Select the questions to label within the budget.")
    _add_verb(app, "augment", "Decode new unknown questions from the hidden states of the selected ones.")
    app.command()(annotate)
    _add_verb(app, "finetune", "Fine-tune the model on the labelled questions, with LoRA.")
    _add_verb(app, "evaluate", "Compare base and tuned model: what was learned and forgotten.")
    _add_verb(app, "report", "Write report.html from the results so far.")


def _add_verb(app: typer.Typer, verb: str, text: str) -> None:
    """A command that runs one verb and has no options of its own."""

    @app.command(verb, help=text)
    def command(
        directory: RunArgument,
        overrides: Overrides = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        run_one_verb(verb, directory, overrides, as_json, quiet)
