"""Who may import whom: the table in docs/architecture.md, held against the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vidattr_bench import plugins

ROOT = Path(__file__).parents[1]
FOLDERS = {"vidattr_bench": "", "vidattr_bench/models": "models/", "vidattr_bench/metrics": "metrics/"}
FOLDERS |= {"methods": "methods/", "datasets": "datasets/"}


def modules():
    """Path by the name that the table uses: `clip`, `methods/grad_cam`."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name != "__init__.py":
                found[prefix + path.stem] = path
    return found


def table():
    """Layer of every module, and what each layer may import."""
    layers, allowed = {}, {}
    for row in re.findall(r"^\| ([\w -]+) \| (`.+`) \| (.*)\|$", (ROOT / "docs/architecture.md").read_text(), re.M):
        layer, names, imports = (cell.strip() for cell in row)
        allowed[layer] = {word.strip(" `") for word in imports.split(",")} - {""}
        for name in re.findall(r"`([^`]+)`", names):
            layers[name] = layer
    return layers, allowed


def layer_of(module, layers):
    return layers.get(module) or layers.get(module.partition("/")[0] + "/*")


def imports(path):
    """Modules of ours that a file imports anywhere, by the table's names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("vidattr_bench"):
            parts = node.module.split(".")[1:]
            known = modules()
            for alias in node.names:
                name = "/".join([*parts, alias.name])
                yield name if name in known else "/".join(parts)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vidattr_bench."):
                    yield alias.name.removeprefix("vidattr_bench.").replace(".", "/")


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_layer_may(module):
    layers, allowed = table()
    own = layer_of(module, layers)
    assert own is not None, f"{module} stands in no row of docs/architecture.md"
    for other in imports(modules()[module]):
        layer = layer_of(other, layers)
        fine = other == "" or layer == own or "all" in allowed[own] or {layer, other} & allowed[own]
        assert fine, f"{module} ({own}) imports {other} ({layer})"


def test_the_table_names_no_module_that_does_not_exist():
    layers, _ = table()
    assert {name for name in layers if "*" not in name and name not in ("__main__",)} <= set(modules())


def test_the_harness_names_no_method_and_no_metric():
    names = {name for kind in ("methods", "metrics") for name in plugins.available(kind)}
    for path in (ROOT / "vidattr_bench").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                columns = {n.slice for n in ast.walk(node) if isinstance(n, ast.Subscript)}
                constants = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and n not in columns]
                texts = {n.value for n in constants if isinstance(n.value, str)}
                assert not texts & names, f"{path.name}:{node.lineno} decides by the name of a plug-in: {texts & names}"


@pytest.mark.parametrize(
    "words", ["import vidattr_bench", "from vidattr_bench.cli import main; main(['list', 'methods'])"]
)
def test_listing_starts_without_torch(words):
    code = f"{words}\nimport sys\nassert 'torch' not in sys.modules and 'lightning' not in str(list(sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_the_packages_of_the_wheel_are_the_folders():
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "(vidattr_bench[\w.]*)",$', text, re.M))
    folders = {"vidattr_bench", "vidattr_bench.methods", "vidattr_bench.datasets"}
    folders |= {f"vidattr_bench.{p.parent.name}" for p in (ROOT / "vidattr_bench").glob("*/__init__.py")}
    assert listed == folders
