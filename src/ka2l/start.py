"""Which run a command line means: its settings and its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ka2l.config import RunConfig
from ka2l.errors import ConfigError
from ka2l.reach import answered_by
from ka2l.recipe import load_config
from ka2l.store import RunDirectory


def choose(
    recipe: str | None, overrides: Sequence[str], named: Mapping[str, Any], out: Path | None
) -> tuple[RunConfig, Path]:
    """The config of a recipe, of the run in `out` that is to go on, or of settings alone; and the run's folder.

    Args:
        recipe: a file, or the first of the overrides where no file is given.
        overrides: `section.key=value`.
        named: settings with an option of their own, None where it was not given.
        out: as given.

    Raises:
        ConfigError: neither a recipe nor questions nor a run to go on with.
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
            "--budget, or the --out of a run to go on with."
        )
    else:
        config = load_config(Path(recipe) if recipe else None, extra)
    return config, out or _default_out(config, recipe)


def demo_recipe() -> Path:
    """The recipe of the demo, as installed with the package."""
    from importlib.resources import files

    return Path(str(files("ka2l") / "recipes" / "geo-smollm2.yaml"))


def _default_out(config: RunConfig, recipe: str | None) -> Path:
    """Where a run without --out goes; another model or other questions never land in an older run's folder."""
    source = Path(config.questions.source).stem
    return Path("runs") / (Path(recipe).stem if recipe else f"{source}-{Path(answered_by(config)).name}")
