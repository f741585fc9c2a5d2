"""What the files at the root of the repository say of each other is true."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import hbsk

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (python3 .*)$", readme, flags=re.MULTILINE)
    assert commands == ["python3 run.py example", "python3 run.py test"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert set(commands) <= set(ci)


def test_code_of_the_readme_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    exec(compile("".join(blocks), "README.md", "exec"), {})


@pytest.mark.parametrize(("name", "extra"), [("oldest", "test"), ("oldest-engines", "engines")])
def test_oldest_environments_pin_the_floors_of_the_project(name, extra):
    declared = [*(PROJECT["dependencies"] if name == "oldest" else []), *PROJECT["optional-dependencies"][extra]]
    floors = dict(requirement.split(",<")[0].split(">=") for requirement in declared if ">=" in requirement)
    environment = (ROOT / "tox.ini").read_text(encoding="utf-8").split(f"[testenv:{name}]")[1].split("[testenv:")[0]
    pins = dict(re.findall(r"^    (\S+)==([\d.]+)$", environment, flags=re.MULTILINE))
    assert floors.keys() <= pins.keys()
    for package, floor in floors.items():
        assert re.fullmatch(re.escape(floor) + r"(\.0)*", pins[package]), f"{package}: {floor}, pinned {pins[package]}"


def test_python_versions_agree():
    versions = (ROOT / ".python-version").read_text(encoding="utf-8").split()
    assert versions == ["3.13", "3.12"]
    assert PROJECT["requires-python"] == ">=" + min(versions)
    for version in versions:
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_what_is_imported_is_declared():
    declared = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in PROJECT["dependencies"]} | {"sklearn"}
    imported = set()
    for path in (ROOT / "hbsk").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0] for name in names}
    # only where the user's own frames are of it, and where the scores of an example are asked for
    assert imported - sys.stdlib_module_names - {"hbsk"} - declared == {"polars", "scoringrules"}


def test_changelog_knows_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(hbsk.__version__)}\b", changelog, flags=re.MULTILINE)


def test_every_room_is_on_the_map():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {f"hbsk/{path.name}" + "/" * path.is_dir() for path in (ROOT / "hbsk").iterdir()}
    rooms -= {"hbsk/__pycache__/", "hbsk/py.typed"}
    named = set(re.findall(r"^\| `(hbsk/[\w/.]+)` \|", contributing, flags=re.MULTILINE))
    assert named == rooms
