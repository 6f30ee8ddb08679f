"""What documents say of the repository that a program can check: modules that exist, and links that lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    "data",
    "data/teachers",
    "configs",
    "tools",
    "tools/gpu",
    "jaxdbd",
    *(f"jaxdbd/{p.name}" for p in (ROOT / "jaxdbd").iterdir()),
]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("data/*.md"),
    *ROOT.glob("jaxdbd/weights/bundled/*.md"),
]


def rows_of_layout() -> dict[str, set[str]]:
    """By folder, the modules that the README's table of the layout names."""
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Layout") : text.index("## Differences")]
    rows = dict(re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", table, re.MULTILINE))
    return {folder: set(re.findall(r"`(\w+\.py)`", text)) for folder, text in rows.items()}


@pytest.mark.parametrize("folder", [f for f in FOLDERS if (ROOT / f / "__init__.py").exists() or f == "configs"])
def test_the_layout_names_every_module_and_no_other(folder):
    deep = "**/*.py" if folder == "jaxdbd/photographs" else "*.py"  # the page is told in the same row
    modules = {path.name for path in (ROOT / folder).glob(deep) if not path.name.startswith("__")}
    assert rows_of_layout()[folder] == modules


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file) if file else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, target
