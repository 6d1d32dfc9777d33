"""KA2L: find out what your language model does not know, and teach it just that.

    import ka2l
    from pathlib import Path

    config = ka2l.load_config(Path("recipes/geo-smollm2.yaml"), ["select.budget=60"])
    run = ka2l.run(config, Path("runs/geo"))

Answers made elsewhere can be measured without a model:

    run = ka2l.import_answers(Path("runs/theirs"), Path("answers.jsonl"))
    ka2l.run_verb("measure", run)

Each part can be used alone; none of these needs a run directory. What does a model know, from its answers?

    measured = ka2l.measure(questions, answers)             # texts; several answers to each question
    measured.scores["semantic_entropy"], measured.unknown

And can that be read from its hidden states, before it answers?

    fitted = ka2l.probe(states, measured.unknown, groups)   # states [questions, layers + 1, width]
    fitted.probe.predict(new_states[:, fitted.probe.layer])
    fitted.probe.save_pretrained("my-probe")

New questions out of hidden states, with a decoder that was trained on such states:

    decoder = ka2l.Decoder.from_pretrained("runs/mine/decoder")
    decoder.decode(states, ids, range(8), noise=0.3, temperature=1.0, seed=0, max_new_tokens=48)

The pieces under them:

    ka2l.semantic_entropy([0, 0, 0, 1])                     # nats
    ka2l.cluster_lexical(["Paris", "paris.", "Lyon"])       # [0, 0, 1]
    ka2l.fit_threshold(entropies, "two_means")
    ka2l.evaluate_scores({"entropy": entropies}, wrong, groups)
    ka2l.select("unknown", ka2l.Signals(ids, p_unknown=p), budget=100, seed=0)

Query strategies side by side, every policy with every budget and seed on one Stage 1:

    policies = ka2l.parse_policies(config, ["unknown", "random"], [])
    ka2l.compare(config, Path("runs/geo"), ka2l.Grid(policies, [50, 100], range(3)))
"""

from typing import TYPE_CHECKING, Any

from ka2l.common.version import __version__ as __version__

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoder
    from ka2l.config.recipes import load_config
    from ka2l.config.run_config import RunConfig
    from ka2l.errors import Ka2lError
    from ka2l.knowledge.probes.fit import fit_probe as probe
    from ka2l.knowledge.probes.fit import fit_probes
    from ka2l.knowledge.probes.layer_choice import choose
    from ka2l.knowledge.probes.probe import Probe
    from ka2l.knowledge.score_metrics import evaluate_scores
    from ka2l.knowledge.settings import ProbeConfig
    from ka2l.knowledge.uncertainty.measure import measure
    from ka2l.knowledge.uncertainty.semantic_clusters import cluster_by_meaning, cluster_lexical
    from ka2l.knowledge.uncertainty.semantic_entropy import semantic_entropy
    from ka2l.knowledge.uncertainty.threshold import fit_threshold
    from ka2l.pipeline.commands.import_answers import import_answers
    from ka2l.pipeline.run import run, run_verb
    from ka2l.pipeline.run_directory import RunDirectory
    from ka2l.questions.load import load_questions
    from ka2l.questions.question import Question
    from ka2l.selection.options import Options
    from ka2l.selection.select import Strategy, select
    from ka2l.selection.signals import Selection, Signals
    from ka2l.studies.comparison.policies import parse_policies
    from ka2l.studies.comparison.run_grid import Grid, compare

_HOME = {
    "Decoder": "ka2l.augmentation.decoder",
    "Grid": "ka2l.studies.comparison.run_grid",
    "Ka2lError": "ka2l.errors",
    "Options": "ka2l.selection.options",
    "Probe": "ka2l.knowledge.probes.probe",
    "ProbeConfig": "ka2l.knowledge.settings",
    "Question": "ka2l.questions.question",
    "RunConfig": "ka2l.config.run_config",
    "RunDirectory": "ka2l.pipeline.run_directory",
    "Selection": "ka2l.selection.signals",
    "Signals": "ka2l.selection.signals",
    "Strategy": "ka2l.selection.select",
    "choose": "ka2l.knowledge.probes.layer_choice",
    "cluster_by_meaning": "ka2l.knowledge.uncertainty.semantic_clusters",
    "cluster_lexical": "ka2l.knowledge.uncertainty.semantic_clusters",
    "compare": "ka2l.studies.comparison.run_grid",
    "evaluate_scores": "ka2l.knowledge.score_metrics",
    "fit_probes": "ka2l.knowledge.probes.fit",
    "fit_threshold": "ka2l.knowledge.uncertainty.threshold",
    "import_answers": "ka2l.pipeline.commands.import_answers",
    "load_config": "ka2l.config.recipes",
    "load_questions": "ka2l.questions.load",
    "measure": "ka2l.knowledge.uncertainty.measure",
    "parse_policies": "ka2l.studies.comparison.policies",
    "probe": "ka2l.knowledge.probes.fit:fit_probe",
    "run": "ka2l.pipeline.run",
    "run_verb": "ka2l.pipeline.run",
    "select": "ka2l.selection.select",
    "semantic_entropy": "ka2l.knowledge.uncertainty.semantic_entropy",
}

__all__ = [
    "Decoder",
    "Grid",
    "Ka2lError",
    "Options",
    "Probe",
    "ProbeConfig",
    "Question",
    "RunConfig",
    "RunDirectory",
    "Selection",
    "Signals",
    "Strategy",
    "choose",
    "cluster_by_meaning",
    "cluster_lexical",
    "compare",
    "evaluate_scores",
    "fit_probes",
    "fit_threshold",
    "import_answers",
    "load_config",
    "load_questions",
    "measure",
    "parse_policies",
    "probe",
    "run",
    "run_verb",
    "select",
    "semantic_entropy",
]


def __getattr__(name: str) -> Any:
    # Looked up when first used, so that `import ka2l` costs nothing.
    if name not in _HOME:
        raise AttributeError(f"module 'ka2l' has no attribute {name!r}")
    from importlib import import_module

    module, _, original = _HOME[name].partition(":")
    return getattr(import_module(module), original or name)
