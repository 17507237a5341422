"""The layers of the package: a module imports from lower ones, and nothing imports in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "recbole_qbert"
# From the bottom up. A unit, which is a package or a file at the root, imports from earlier lines
# alone; units of one line do not import each other.
LAYERS = (
    ("_version",),
    ("common",),
    ("data", "compat", "topk"),
    ("evaluation", "models"),
    ("speedups",),
    ("training",),
    ("registry",),
    ("config",),
    ("serving",),
    ("service",),
    ("encoders", "tokenizer", "pretraining", "datasets"),
    ("experiments",),
    ("quick_start",),
    ("reports",),
    ("commands",),
    ("cli",),
    ("__main__", "__init__"),
)
LEVELS = {unit: level for level, units in enumerate(LAYERS) for unit in units}


def imports_of_all() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, within its functions too."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "properties" not in parts:
            paths[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = (
                path
            )
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                whole = [f"{node.module}.{each.name}" for each in node.names]
                targets = [each if _within(each) in paths else str(node.module) for each in whole]
            else:
                continue
            within = {_within(each) for each in targets if each.startswith("recbole_qbert")}
            found[name] |= within & paths.keys() - {name}
    return found


def _within(module: str) -> str:
    return module.removeprefix("recbole_qbert.")


def test_a_module_imports_only_from_lower_layers() -> None:
    wrong = []
    for module, targets in imports_of_all().items():
        unit = module.partition(".")[0]
        for target in sorted(targets):
            other = target.partition(".")[0]
            if other != unit and LEVELS[other] >= LEVELS[unit]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_modules_import_in_a_circle() -> None:
    """Modules that import nothing that is left are taken away until none is."""
    left = imports_of_all()
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_the_root_holds_few_files() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_a_class_name_stands_for_one_thing() -> None:
    names = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}
