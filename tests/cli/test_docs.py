"""Pages that are made from the program must be what the program says now."""

import importlib.util
import re

from places import ROOT


def test_the_cli_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.page(), "run `make docs`"


def test_the_paper_map_names_only_what_exists() -> None:
    page = (ROOT / "docs" / "paper-map.md").read_text(encoding="utf-8")
    found = re.findall(r"`((?:\w+/)*\w+\.py)(?:: ([\w., ]+))?`", page)
    assert len(found) > 10
    for file, names in found:
        source = (ROOT / "src" / "ka2l" / file).read_text(encoding="utf-8")
        for name in filter(None, re.split(r"[., ]+", names)):
            assert re.search(rf"(def|class) {name}\b", source), f"{file} has no {name}"


def test_every_link_in_the_pages_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
