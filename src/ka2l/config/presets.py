"""The values that the presets `paper`, `reference` and `default` set; a recipe and overrides take precedence over
them.
"""

from typing import Any

_PAPER_PROBE = {
    "kinds": ["mlp"],
    "standardize": False,
    "mlp_width": 14336,
    "mlp_lr": 1e-5,
    "mlp_epochs": 20,
    "mlp_patience": 20,
    "mlp_weight_decay": 0.0,
    "choice": "best",
    "calibration": "none",
}

_PAPER_SELECT = {"strategy": "unknown", "draw": "random"}

_PAPER_DECODER = {
    "t5": "google-t5/t5-base",
    "pseudo_tokens": 16,
    "learning_rate": 2e-4,
    "epochs": 40,
    "eval_steps": 1000,
    "patience": 10,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "measure": {"judge": "nli", "threshold": "eq3", "split": [0.7, 0.2, 0.1], "scores": ["p_true"]},
        "probe": _PAPER_PROBE,
        "select": _PAPER_SELECT,
        "decoder": _PAPER_DECODER,
        "finetune": {"replay": 0.0},
        "evaluate": {"temperature": 0.1},
    },
    "reference": {
        "measure": {
            "judge": "nli",
            "threshold": "two_means",
            "split": [0.72, 0.18, 0.1],
            "scores": ["p_true"],
        },
        "probe": _PAPER_PROBE,
        "select": _PAPER_SELECT,
        "decoder": _PAPER_DECODER,
        "finetune": {"replay": 0.0},
        # one near-copy per question
        "augment": {"noise": 0.0, "temperature": 0.0},
        "evaluate": {"temperature": 0.1},
    },
}
