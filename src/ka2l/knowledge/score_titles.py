"""Display names of uncertainty scores."""

_TITLES = {
    "probe": "kept probe",
    "mlp_probe": "MLP probe",
    "label_probe": "linear probe of the label",
    "entropy_probe": "linear probe of the entropy",
    "accuracy_probe": "linear probe of wrong answers",
    "semantic_entropy_rao": "semantic entropy, by likelihood",
    "semantic_entropy_length_normalized": "semantic entropy, by likelihood per token",
    "kernel_entropy": "kernel language entropy",
    "n_clusters": "number of clusters",
    "negative_log_likelihood": "negative log-likelihood",
    "predictive_entropy": "predictive entropy",
    "normalized_entropy": "predictive entropy per token",
    "p_false": "1 − P(True)",
    "eigenscore": "EigenScore",
}


def score_title(name: str, layer: int | None = None) -> str:
    """The name of a score on the page and in tables: `mlp_probe` at layer 24 → MLP probe (layer 24)."""
    title = _TITLES.get(name, name.replace("_", " "))
    return f"{title} (layer {layer})" if layer is not None and layer >= 0 else title
