"""What is declared, pinned, shipped and published fits together."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path, PurePosixPath

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Built from pieces, so that this file does not hold what it looks for.
FORBIDDEN = ("/wo" + "rk/", "/opt/" + "wheels", "/opt/" + "pypi", "/ho" + "me/", "/roo" + "t/")
SKIPPED_FOLDERS = {"build", "dataset", "dist", "log", "log_tensorboard", "runs", "saved", "site"}
SKIPPED_FOLDERS |= {".git", ".snakemake", ".venv", "__pycache__", ".hypothesis"}


@pytest.fixture(scope="module")
def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def base_dependencies() -> list[Requirement]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return [Requirement(line) for line in lines(parser["options"]["install_requires"])]


def constraints(python: str) -> list[Requirement]:
    text = (ROOT / f"constraints/python{python}.txt").read_text(encoding="utf-8")
    return [Requirement(line) for line in lines(text)]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {**default_environment(), "python_version": python}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def project_text_files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in SKIPPED_FOLDERS
            and not name.endswith((".egg-info", "_cache"))
            and not (Path(folder, name) / "pyvenv.cfg").exists()
        ]
        yield from (Path(folder, name) for name in names)


def test_setup_cfg_holds_the_metadata(settings: configparser.ConfigParser) -> None:
    assert settings["metadata"]["name"] == "recbole-qbert"
    assert settings["options"]["python_requires"] == ">=3.10,<3.14"
    assert (
        "recbole-qbert = recbole_qbert.cli:main"
        in (settings["options.entry_points"]["console_scripts"])
    )


def test_version_is_readable_without_an_import(settings: configparser.ConfigParser) -> None:
    module = settings["metadata"]["version"].removeprefix("attr: ").rpartition(".")[0]
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    assert "import" not in source.split('"""')[-1]
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', source, re.MULTILINE)


def test_every_package_is_listed(settings: configparser.ConfigParser) -> None:
    expected = set()
    for top, name in (("recbole_qbert", "recbole_qbert"), ("properties", "properties")):
        for init in (ROOT / top).rglob("__init__.py"):
            package = ".".join((name, *init.parent.relative_to(ROOT / top).parts))
            expected.add(package if top == name == "recbole_qbert" else f"recbole_qbert.{package}")
    assert set(lines(settings["options"]["packages"])) == expected | {"recbole_qbert"}


def test_every_folder_of_modules_is_a_package() -> None:
    for top in ("recbole_qbert", "properties"):
        patterns = ("*.py", "*.smk", "*.yaml")
        folders = {file.parent for pattern in patterns for file in (ROOT / top).rglob(pattern)}
        missing = [
            str(folder.relative_to(ROOT))
            for folder in folders
            if not (folder / "__init__.py").exists()
        ]
        assert missing == []


@pytest.mark.parametrize("python", PYTHON_VERSIONS)
@pytest.mark.parametrize("requirement", base_dependencies(), ids=lambda r: r.name)
def test_base_dependency_is_pinned_within_its_range(requirement: Requirement, python: str) -> None:
    if applies(requirement, python) or requirement.name == "recbole":
        pins = {canonicalize_name(pin.name): pin for pin in constraints(python)}
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is missing"
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("=="))


@pytest.mark.parametrize("python", PYTHON_VERSIONS)
def test_constraints_are_exact_pins_in_order(python: str) -> None:
    pins = constraints(python)
    exact = re.compile(r"==[^*+]+")
    assert all(exact.fullmatch(str(pin.specifier)) and not (pin.url or pin.marker) for pin in pins)
    names = [pin.name.lower() for pin in pins]
    assert names == sorted(set(names))


def test_every_setting_is_shipped(settings: configparser.ConfigParser) -> None:
    data = settings["options.package_data"]
    folder = ROOT / "properties"
    for file in (*folder.rglob("*.yaml"), *folder.rglob("*.smk")):
        relative = PurePosixPath(file.relative_to(ROOT / "properties").as_posix())
        package = ".".join(("recbole_qbert", "properties", *relative.parent.parts))
        assert any(fnmatch(file.name, pattern) for pattern in lines(data.get(package, ""))), file


def test_the_template_of_pages_is_shipped(settings: configparser.ConfigParser) -> None:
    templates = list((ROOT / "recbole_qbert").rglob("*.j2"))
    assert [file.parent.name for file in templates] == ["reports"]
    assert settings["options.package_data"]["recbole_qbert.reports"] == "*.j2"


def test_installed_package_finds_its_yaml() -> None:
    pytest.importorskip("recbole_qbert.properties")
    found = {entry.name for entry in resources.files("recbole_qbert.properties").iterdir()}
    assert {file.name for file in (ROOT / "properties").glob("*.yaml")} <= found


def test_no_file_names_a_machine() -> None:
    found = []
    for file in project_text_files():
        try:
            text = file.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # not text, or gone since it was listed
        found += [f"{file.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []
