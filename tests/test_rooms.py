"""The rooms and floors of the package: who may import whom, and that no files import each other in a circle.

Every import counts, also those inside functions and under TYPE_CHECKING.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from places import ROOT

PACKAGE = "ka2l"
FLOORS = {
    "errors": 1,
    "common": 2,
    "knowledge": 3,
    "questions": 3,
    "selection": 3,
    "models": 4,
    "evaluation": 4,
    "report": 4,
    "augmentation": 5,
    "teaching": 5,
    "simulation": 5,
    "config": 6,
    "pipeline": 7,
    "studies": 8,
    "__init__": 9,
    "cli": 9,
}
# Between the rooms of floors 3 to 5, these arrows and no others.
ARROWS = {
    "models": {"knowledge"},
    "evaluation": {"questions"},
    "report": {"knowledge"},
    "augmentation": {"models", "evaluation", "questions"},
    "teaching": {"models", "questions"},
    "simulation": {"selection", "evaluation", "report"},
}
# Inside the pipeline: a name may import those after it.
PIPELINE = (
    ("commands",),
    ("run",),
    ("stage_list",),
    ("stages",),
    ("shared", "preflight"),
    ("context",),
    ("content_keys",),
    ("identities",),
    ("stage_graph",),
    ("stage",),
    ("run_directory",),
    ("manifest",),
    ("arms",),
)
# A stage's second file, and the only file that may import it.
SECOND_FILES = {"probe_contenders": "probe", "measure_by_model": "measure", "candidate_filters": "augment"}
# Who may use these libraries.
LIBRARIES = {
    "transformers": ("models.", "augmentation.", "teaching.finetuning."),
    "peft": ("models.", "augmentation.", "teaching.finetuning."),
    "trl": ("teaching.finetuning.lora",),
    "vllm": ("models.vllm.",),
    "typer": ("cli.",),
}
# Rooms of pure functions: no files, no models. What is named here reads or writes files.
PURE = ("knowledge.", "selection.")
FILES = ("pathlib", "pyarrow", "safetensors", "sqlite3")
READS_FILES = ("knowledge.probes.probe_folder", "knowledge.probes.probe")


class Import(NamedTuple):
    """One import of a module by another; module names start below the package."""

    file: Path
    line: int
    importer: str  # "pipeline.run"
    imported: str  # "common.progress", or another package's name with external=True
    external: bool = False


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package at `root`, by its name below the package."""
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        # Recipes are data; the script beside them is run by hand.
        if parts[0] != "recipes":
            found[".".join(parts)] = file
    return found


def imports(root: Path) -> Iterator[Import]:
    """Every import statement of the package at `root`, relative ones with the module they mean."""
    known = modules(root)
    for importer, file in known.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                above = [PACKAGE, *importer.split(".")[: -node.level]] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                names = [f"{module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                top, _, below = name.partition(".")
                if top != PACKAGE:
                    yield Import(file, node.lineno, importer, top, external=True)
                    continue
                while below and below not in known and f"{below}.__init__" not in known:
                    below = below.rpartition(".")[0]
                target = below if below in known else f"{below}.__init__".lstrip(".")
                yield Import(file, node.lineno, importer, target)


def room(module: str) -> str:
    return module.partition(".")[0]


def broken_rule(found: Import) -> str | None:
    """The sentence of the rule this import breaks."""
    if found.external:
        allowed = LIBRARIES.get(found.imported)
        if allowed and not found.importer.startswith(allowed):
            return f"only {', '.join(allowed)} may import {found.imported}"
        if found.importer.startswith(PURE) and found.imported in FILES and found.importer not in READS_FILES:
            return f"{room(found.importer)} is pure: no file is read or written there"
        return None
    here, there = room(found.importer), room(found.imported)
    if there == "__init__":
        return "nothing imports the package's root; the version is in common.version"
    if missing := [name for name in (here, there) if name not in FLOORS]:
        return f"a new room gets a floor in the table FLOORS first: {', '.join(missing)}"
    if here == there:
        return broken_rule_inside(found)
    if FLOORS[there] >= FLOORS[here]:
        return f"a room imports only from floors below its own: {here} is on {FLOORS[here]}, {there} on {FLOORS[there]}"
    if 3 <= FLOORS[here] <= 5 and FLOORS[there] >= 3 and there not in ARROWS.get(here, ()):
        return f"between the rooms of floors 3 to 5 only the arrows of ARROWS exist: {here} → {there} is none"
    if found.importer.startswith(PURE) and found.imported == "common.atomic_files":
        return None if found.importer in READS_FILES else f"{here} is pure: no file is read or written there"
    return None


def broken_rule_inside(found: Import) -> str | None:
    """The same inside the pipeline, whose files have an order."""
    if room(found.importer) != "pipeline":
        return None
    parts, others = found.importer.split("."), found.imported.split(".")
    if others[1] == "__init__":
        return None
    level = {name: number for number, names in enumerate(PIPELINE) for name in names}
    if parts[1] not in level or others[1] not in level:
        return f"the order of the pipeline's files names neither or only one of {parts[1]} and {others[1]}"
    if parts[1] == "stages" == others[1]:
        if SECOND_FILES.get(others[2]) == parts[2]:
            return None
        return "stages do not import each other: what one writes and another reads is read by a function in shared/"
    if level[others[1]] < level[parts[1]] or (level[others[1]] == level[parts[1]] and others[1] != parts[1]):
        return f"inside the pipeline {parts[1]} stands below {others[1]} and may not import it"
    return None


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component: list[str] = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in arrows:
        if node not in index:
            visit(node)
    return found


def problems(root: Path) -> list[str]:
    """What is wrong with the imports of the package at `root`, one line each: file, line and the rule."""
    found, arrows = [], dict[str, set[str]]()
    for one in imports(root):
        rule = broken_rule(one)
        if rule is not None:
            found.append(f"{one.file.relative_to(root)}:{one.line}: imports {one.imported}, but {rule}")
        if not one.external and one.importer != "__init__":
            arrows.setdefault(one.importer, set()).add(one.imported)
    return found + [f"these import each other in a circle: {', '.join(names)}" for names in circles(arrows)]


def test_no_import_runs_up_and_none_in_a_circle() -> None:
    assert problems(ROOT / "src" / PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "text", "rule"),
    [
        ("models/a.py", "from ka2l.config.b import RunConfig", "models is on 4, config on 6"),
        (
            "common/a.py",
            "def f():\n    import ka2l.errors\n    from ka2l.models import a",
            "a.py:3: imports models",
        ),
        (
            "report/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ka2l.questions.b import Q",
            "report → questions is none",
        ),
        ("common/a.py", "from ka2l import __version__", "nothing imports the package's root"),
        ("pipeline/context.py", "from ka2l.pipeline.run import run", "context stands below run"),
        (
            "pipeline/stages/map.py",
            "from ka2l.pipeline.stages.probe import probe",
            "stages do not import each other",
        ),
        ("config/a.py", "import transformers", "may import transformers"),
        ("selection/a.py", "from ka2l.common.atomic_files import read_json", "selection is pure"),
        ("config/recipes.py", "from ka2l.pipeline.run import run", "config is on 6, pipeline on 7"),
        ("selection/a.py", "def f():\n    from pathlib import Path", "selection is pure"),
        ("attic/a.py", "import ka2l.errors", "a new room gets a floor"),
        ("knowledge/probes/a.py", "from ...config.b import RunConfig", "knowledge is on 3, config on 6"),
        ("knowledge/a.py", "def f():\n    from ..config import b", "a.py:2: imports config.b"),
        ("cli/a.py", "from ka2l.cli.b import x", "in a circle: cli.a, cli.b"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, text: str, rule: str) -> None:
    planted = {
        "__init__.py": "__version__ = '0'",
        "errors.py": "",
        "cli/b.py": "def f():\n    from ka2l.cli.a import y",
        "config/b.py": "RunConfig = 1",
        "common/atomic_files.py": "",
        "models/a.py": "",
        "questions/b.py": "Q = 1",
        "pipeline/run.py": "",
        "pipeline/stages/probe.py": "",
    }
    for name, content in {**planted, "cli/b.py": "", file: text}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(planted["cli/b.py"] if file == "cli/a.py" and name == "cli/b.py" else content)
        (path.parent / "__init__.py").touch()
    found = problems(tmp_path)
    assert len(found) == 1
    assert rule in found[0]


def test_no_room_is_too_full_and_every_room_says_what_it_is() -> None:
    package = ROOT / "src" / PACKAGE
    assert sorted(path.name for path in package.glob("*.py")) == ["__init__.py", "errors.py"]
    rooms = [path for path in package.iterdir() if path.is_dir() and path.name not in ("__pycache__", "recipes")]
    assert len(rooms) <= 14
    for folder in {file.parent for file in package.rglob("*.py") if "recipes" not in file.parts} - {package}:
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= 18, f"{folder.name} has {len(files)} files"
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        sign = ast.get_docstring(ast.parse(text)) or ""
        assert "import" in sign, (
            f"{folder.relative_to(package)}/__init__.py does not say what the room is and may import"
        )
