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

    from ka2l.compare import Grid, compare
    from ka2l.policies import parse_policies
    compare(config, Path("runs/geo"), Grid(parse_policies(config, ["unknown", "random"], []), [50, 100], range(3)))
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoder
    from ka2l.config import ProbeConfig, RunConfig
    from ka2l.errors import Ka2lError
    from ka2l.knowledge.choice import choose
    from ka2l.knowledge.clustering import cluster_by_meaning, cluster_lexical
    from ka2l.knowledge.entropy import semantic_entropy
    from ka2l.knowledge.measure import measure
    from ka2l.knowledge.metrics import evaluate_scores
    from ka2l.knowledge.probe import Probe, fit_probes
    from ka2l.knowledge.probe import fit_probe as probe
    from ka2l.knowledge.threshold import fit_threshold
    from ka2l.pipeline import import_answers, run, run_verb
    from ka2l.questions import Question, load_questions
    from ka2l.recipe import load_config
    from ka2l.selection.strategies import Options, Selection, Signals, Strategy, select
    from ka2l.store import RunDirectory

_HOME = {
    "Decoder": "ka2l.augmentation.decoder",
    "Ka2lError": "ka2l.errors",
    "Options": "ka2l.selection.strategies",
    "Probe": "ka2l.knowledge.probe",
    "ProbeConfig": "ka2l.config",
    "Question": "ka2l.questions",
    "RunConfig": "ka2l.config",
    "RunDirectory": "ka2l.store",
    "Selection": "ka2l.selection.strategies",
    "Signals": "ka2l.selection.strategies",
    "Strategy": "ka2l.selection.strategies",
    "choose": "ka2l.knowledge.choice",
    "cluster_by_meaning": "ka2l.knowledge.clustering",
    "cluster_lexical": "ka2l.knowledge.clustering",
    "evaluate_scores": "ka2l.knowledge.metrics",
    "fit_probes": "ka2l.knowledge.probe",
    "fit_threshold": "ka2l.knowledge.threshold",
    "import_answers": "ka2l.pipeline",
    "load_config": "ka2l.recipe",
    "load_questions": "ka2l.questions",
    "measure": "ka2l.knowledge.measure",
    "probe": "ka2l.knowledge.probe:fit_probe",
    "run": "ka2l.pipeline",
    "run_verb": "ka2l.pipeline",
    "select": "ka2l.selection.strategies",
    "semantic_entropy": "ka2l.knowledge.entropy",
}

__all__ = [
    "Decoder",
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
    "evaluate_scores",
    "fit_probes",
    "fit_threshold",
    "import_answers",
    "load_config",
    "load_questions",
    "measure",
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
