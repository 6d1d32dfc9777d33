"""Content keys of many configurations are what they were: a run made before is continued, and nothing is done twice.

`frozen_keys.json` has, by overrides, a hash of the stages in order, their inputs, and their keys in two worlds. It was
made with format 4 of the run directory and changes only with a new format.
"""

import hashlib
import json

from ka2l.config.recipes import load_config
from ka2l.pipeline.stage_list import plan_of
from places import ROOT
from plans import Known, keys

FROZEN = ROOT / "tests" / "pipeline" / "frozen_keys.json"
WORLDS = (
    Known(),
    Known(labels="l", imported="i", judge="j", probe="p", state="2:tbg", decoder="d", encoder="e", sentences="s"),
)


def digest(overrides: list[str]) -> str:
    config = load_config(None, overrides)
    plan = plan_of(config)
    one, other = (keys(config, known) for known in WORLDS)
    rows = [[stage, plan.inputs[stage], one[stage], other[stage]] for stage in plan.stages]
    return hashlib.sha256(json.dumps([rows]).encode()).hexdigest()[:16]


def test_content_keys_are_what_they_were() -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert len(frozen) == 444
    changed = [text for text, expected in frozen.items() if digest(json.loads(text)) != expected]
    assert changed == []
