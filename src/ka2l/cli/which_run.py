"""The run that a command line refers to: its settings and its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import answered_by
from ka2l.errors import ConfigError
from ka2l.pipeline.run_directory import RunDirectory


class ChosenRun(NamedTuple):
    """The settings of a run, and its folder."""

    config: RunConfig
    folder: Path


def choose(recipe: str | None, overrides: Sequence[str], named: Mapping[str, Any], out: Path | None) -> ChosenRun:
    """The config of a recipe, of the run in `out` to resume, or of settings alone; and the run's folder.

    Args:
        recipe: a file, or the first of the overrides if no file is given.
        overrides: `section.key=value`.
        named: settings with an option of their own; None: not given.
        out: the folder given with --out.

    Raises:
        ConfigError: neither a recipe nor questions nor a run to resume.
    """
    extra = list(overrides)
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        extra.insert(0, recipe)
        recipe = None
    extra += [f"{key}={value}" for key, value in named.items() if value is not None]
    if recipe is None and out is not None and (out / "manifest.json").exists():
        config = RunDirectory.open(out, extra).config
    elif recipe is None and not any(setting.startswith("questions.source=") for setting in extra):
        raise ConfigError(
            "Nothing to run. Give a recipe (ka2l run recipes/geo-smollm2.yaml --out DIR), or --model, --questions and "
            "--budget, or the --out of a run to resume."
        )
    else:
        config = load_config(Path(recipe) if recipe else None, extra)
    return ChosenRun(config, out or _default_out(config, recipe))


def whole_numbers(text: str, option: str, least: int = 1) -> list[int]:
    """The numbers in a list such as `50,100`.

    Raises:
        ConfigError: the text is not such a list, or a number is less than `least`.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() or int(part) < least]
    if wrong or not parts:
        what = f"{wrong[0]!r} is not a whole number of at least {least}" if wrong else "no number"
        raise ConfigError(f"{option} {text!r}: {what}. Give numbers separated by commas, such as 50,100.")
    return [int(part) for part in parts]


def with_probe(
    folder: Path, overrides: Sequence[str], probe: str | None, questions: str | None, *, quiet: bool = False
) -> list[str]:
    """The settings to map a pool with; with `questions` a new run is started at `folder`.

    A new run has the model and the prompt the probe was trained with, and all its questions are the pool.

    Args:
        folder: the run directory.
        overrides: `section.key=value`.
        probe: a folder or Hub id; None: the run has its own probe.
        questions: the source of a new run's pool; None: the run exists.
        quiet: print no progress.

    Raises:
        ConfigError: questions for a run that already exists, or without a probe.
        ModelError: no such probe.
    """
    from ka2l.common.progress import Reporter
    from ka2l.config.absolute_paths import with_absolute_paths
    from ka2l.pipeline.run import run_verb

    settings = [*overrides, *([f"map.probe={probe}"] if probe is not None else [])]
    if questions is None:
        return settings
    if (folder / "manifest.json").exists():
        raise ConfigError(f"{folder}: this run already has questions. Omit --questions, or choose another folder.")
    config = load_config(None, [*settings, f"questions.source={questions}"])
    if not config.map.probe:
        raise ConfigError("--questions starts a run that is mapped by an existing probe: name it with --probe.")
    from ka2l.pipeline.identities import given_probe

    card = given_probe(config.map.probe, config.map.probe_revision).card
    base = {
        "model": {"name": card["model"]},
        "prompt": {"instruction": card["prompt"]["instruction"], "template": card["prompt"]["template"]},
        "questions": {"source": questions, "roles": {"probe": 0, "pool": 1.0, "eval": 0}},
    }
    # the worked examples come with the probe
    base["prompt"]["shots"] = 0
    config = with_absolute_paths(load_config(None, settings, base))
    run_verb("load", RunDirectory.create(folder, config), Reporter(quiet=quiet))
    return []


def demo_recipe(*, augment: bool = False) -> Path:
    """The recipe of the demo, as installed with the package; with or without questions decoded from hidden states."""
    from importlib.resources import files

    return Path(str(files("ka2l") / "recipes" / ("geo-augment.yaml" if augment else "geo-smollm2.yaml")))


def _default_out(config: RunConfig, recipe: str | None) -> Path:
    """The folder of a run without --out; different for other models and other questions."""
    source = Path(config.questions.source).stem
    return Path("runs") / (Path(recipe).stem if recipe else f"{source}-{Path(answered_by(config)).name}")
