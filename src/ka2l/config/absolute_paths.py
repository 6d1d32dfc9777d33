"""Settings that name files and folders, made absolute so that a run continues from any working directory."""

from pathlib import Path

from ka2l.config.run_config import RunConfig
from ka2l.models import embedded_model
from ka2l.questions import settings

_NO_PATHS = (
    "",
    "geonames",
    settings.SOURCE,
    embedded_model.NAME,
    "minilm",
)  # names with a meaning of their own


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with paths of files and folders spelled out, so that the run can go on from any folder."""
    named = [("questions", "source"), ("model", "name"), ("map", "probe")]
    named += [("decoder", "pretrained"), ("decoder", "t5"), ("augment", "embedding_model")]
    named += [("select", "encoder")]
    named += [("measure", key) for key in ("nli_model", "embedding_model", "llm_model", "cache")]
    for section, key in named:
        values = getattr(config, section)
        path = Path(getattr(values, key)).expanduser()
        if getattr(values, key) not in _NO_PATHS and (path.exists() or key == "cache"):
            resolved = values.model_copy(update={key: str(path.resolve())})
            config = config.model_copy(update={section: resolved})
    return config
