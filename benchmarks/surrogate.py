"""How much AUROC is lost if a stand-in's hidden states predict what the answering model does not know.

    python benchmarks/surrogate.py RUN ENCODER [repeats]

RUN has been measured with the states of the model that answered. ENCODER is the folder of a sentence encoder (no second
small language model was available), whose states are means over the question's tokens. Both are treated in the same
way: a scaled, converged logistic regression, five outer folds, the layer chosen by four folds inside each. `length`
uses only the number of characters. AUROC is for the run's known/unknown labels; the interval of the difference is a
bootstrap over questions (95 %). The last line is JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ka2l.common.atomic_files import read_json, read_table
from ka2l.common.intervals import auroc, bootstrap_interval
from ka2l.pipeline.shared.artifact_tables import read_states

Rows = NDArray[np.float64]


def main(run: Path, encoder: Path, repeats: int = 3) -> None:
    """Score both sources of states on the same folds."""
    entropy = read_table(run / "entropy.parquet")
    ids = entropy["question_id"].to_pylist()
    threshold = read_json(run / "threshold.json")["value"]
    unknown = np.asarray(entropy["semantic_entropy"]) >= threshold
    texts = dict(read_table(run / "questions.parquet").select(["id", "question"]).to_pandas().to_numpy())
    questions = [texts[i] for i in ids]
    sources = {
        "own": read_states(run / "states", ids).astype(np.float64),
        "stand_in": _encode(encoder, questions),
        "length": np.array([[[len(question)]] for question in questions], dtype=np.float64),
    }
    scores = {
        name: np.mean([_scores(states, unknown, seed) for seed in range(repeats)], axis=0)
        for name, states in sources.items()
    }
    result = {f"auroc_{name}": round(float(auroc(s, unknown)), 3) for name, s in scores.items()}

    def cost(rows: NDArray[np.intp]) -> float:
        own, stand_in = (auroc(scores[name][rows], unknown[rows]) for name in ("own", "stand_in"))
        return own - stand_in

    interval = bootstrap_interval(cost, ids, 2000)
    result |= {name: round(getattr(interval, name), 3) for name in ("value", "low", "high")}
    print(json.dumps({"benchmark": "surrogate", "questions": len(ids), "repeats": repeats, **result}))


def _encode(folder: Path, questions: list[str]) -> Rows:
    """[questions, layers, width]: each layer's mean over the question's tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(questions, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states, dim=1)
    weights = batch["attention_mask"][:, None, :, None].float()
    return np.asarray(((hidden * weights).sum(2) / weights.sum(2)).double().numpy())


def _scores(states: Rows, unknown: NDArray[np.bool_], seed: int) -> Rows:
    """Out-of-fold scores, [questions]; the layer is chosen on the training folds of each outer fold."""
    scores = np.empty(len(unknown))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(states[:, 0], unknown):
        layer = max(range(states.shape[1]), key=lambda layer: _inner_auroc(states[train, layer], unknown[train], seed))
        fitted = _probe().fit(states[train, layer], unknown[train])
        # Ranks: scores of different folds' probes are not on one scale.
        scores[test] = fitted.decision_function(states[test, layer]).argsort().argsort() / len(test)
    return scores


def _inner_auroc(states: Rows, unknown: NDArray[np.bool_], seed: int) -> float:
    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    scores = cross_val_predict(_probe(), states, unknown, cv=folds, method="decision_function")
    return float(auroc(scores, unknown))


def _probe() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(argument) for argument in sys.argv[3:]))
