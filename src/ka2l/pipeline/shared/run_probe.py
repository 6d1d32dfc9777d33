"""The probe of a run (its own, or the one `map.probe` names), checked against the run's model and prompt."""

from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_limits import answered_by, has_model, limit
from ka2l.errors import RunError
from ka2l.knowledge.probes.probe import Probe
from ka2l.pipeline.context import Context


def read_probe(context: Context) -> tuple[Probe, dict[str, Any]]:
    """The probe this run's pool is mapped with, and its card: its own, or the one `map.probe` names.

    Raises:
        RunError: no probe; or it was trained for another model, revision or prompt, so its predictions would be
            meaningless here.
    """
    config, end = context.config, limit(context.config)
    if end is not None and not has_model(config):
        raise RunError(f"{context.run.path}: this run cannot have a probe. {end.why}")
    if config.map.probe:
        probe = context.identities.given_probe
        card = dict(probe.card)
        _check_probe(context, f"map.probe={config.map.probe}", card, given=True)
        return probe, card
    folder = context.run.file("probe")
    if not (folder / "probe.json").exists():
        raise RunError(f"{context.run.path}: no probe is trained yet. Run `ka2l probe {context.run.path}`.")
    # The card is checked first, before weights are read that may not fit.
    card = atomic_files.read_json(folder / "probe.json")
    _check_probe(context, str(folder), card, given=False)
    return Probe.from_pretrained(str(folder)), card


def _check_probe(context: Context, where: str, card: dict[str, Any], *, given: bool) -> None:
    """Refuse a probe whose card differs from the run; `given`: it was not trained in this run."""
    config, resolved = context.config, context.resolved
    now = {
        "model": ("model", resolved.name),
        "revision": ("model revision", resolved.revision),
        "sensing_hash": ("sensing prompt (its hash)", context.prompts.sensing_hash),
    }
    if given:
        fix = "Give the model and prompt.* settings it was trained with, or train one here with map.probe= (empty)."
        prompt = card.get("prompt", {})
        now["instruction"] = ("prompt.instruction", config.prompt.instruction)
        now["template"] = ("prompt.template", config.prompt.template)
        card = {**card, **{name: prompt.get(name) for name in ("instruction", "template")}}
        now = {name: now[name] for name in ("model", "revision", "template", "instruction", "sensing_hash")}
    else:
        fix = f"Train it again: ka2l run --out {context.run.path}"
        now["answered_by"] = ("model that answered", answered_by(config))
        now["position"] = ("probe.position", config.probe.position)
    if card["revision"] == resolved.revision and resolved.revision.startswith("sha256-"):
        # The same files, under whatever name.
        del now["model"]
        if card["answered_by"] == card["model"]:
            now.pop("answered_by", None)
    for name, (title, value) in now.items():
        if card[name] != value:
            raise RunError(
                f"{where}: this probe was trained with another {title}: {card[name]}, but the run now has {value}. A "
                f"probe reads the states of one model and one prompt. {fix}"
            )
