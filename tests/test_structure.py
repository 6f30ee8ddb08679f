"""The rules of the layout that a program can check, read from the source: nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("jaxdbd", "data", "tools")
FILES = [*(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "train.py", ROOT / "sweep.py"]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
LONGEST = 60  # lines of a function


def imports(module: str) -> set[str]:
    """What a module of ours imports, wherever in it: `from a import b` counts as both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    # Importing a.b runs a as well.
    return {".".join(name.split(".")[: i + 1]) for name in found for i in range(name.count(".") + 1)}


def reached(module: str) -> set[str]:
    """Everything that a module of ours imports, by way of others of ours too."""
    seen, waiting = set(), {module}
    while waiting:
        new = imports(waiting.pop()) - seen
        seen |= new
        waiting |= new & MODULES.keys()
    return seen


def test_the_modules_are_found():
    assert {"jaxdbd", "jaxdbd.training.loop", "jaxdbd.commands.predict", "data.build", "train", "sweep"} <= set(MODULES)
    assert "jaxdbd.network.encoders" in reached("train")


def test_no_library_module_imports_a_command():
    # Only the entry point knows the commands, by their names.
    library = [name for name in MODULES if name.startswith("jaxdbd") and not name.startswith("jaxdbd.commands")]
    assert len(library) > 30
    assert not {name: found for name in library if (found := imports(name) & {"jaxdbd.commands"})}


def test_training_imports_no_plotting():
    assert not {"matplotlib", "jaxdbd.commands"} & reached("train")
    assert "matplotlib" in reached("jaxdbd.commands.evaluate")  # so it would be seen


@pytest.mark.parametrize("other", ["data", "tools", "tests", "configs", "train", "sweep"])
def test_the_package_imports_nothing_beside_it(other):
    assert not [name for name in MODULES if name.startswith("jaxdbd") and other in imports(name)]


def test_functions_are_short():
    too_long = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST:
                    too_long[f"{name}.{node.name}"] = lines
    assert not too_long
