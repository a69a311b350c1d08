"""Plug-ins are found, described without being imported, configured and named; third parties' as ours."""

import ast
import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vidattr_bench import methods, plugins, sources
from vidattr_bench.errors import PluginError
from vidattr_bench.listing import render
from vidattr_bench.spec import parse

ROOT = Path(__file__).resolve().parents[1]
METHOD = '''
"""A method that was dropped into the folder."""
import dataclasses
from vidattr_bench.method import AttributionMethod

@dataclasses.dataclass(frozen=True)
class {name}(AttributionMethod):
    """What is bright in the clip that is explained.

    More text."""
    informed = False
    aliases = ("{alias}",)
    power: float = 1.0
    range: tuple[float, float] | None = None
    def attribute(self, model, frames, targets):
        return frames.mean(1) ** self.power
'''


def python(code: str, *paths: Path) -> str:
    """What a fresh interpreter prints."""
    path = ":".join(map(str, [ROOT, *paths]))
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": path, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files are methods."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"vidattr_bench.methods.{path.stem}", None)


def drop(folder: Path, stem: str, text: str) -> Path:
    path = folder / f"{stem}.py"
    path.write_text(text)
    return path


def test_a_dropped_in_file_is_a_method(folder):
    path = drop(folder, "dropped_brightness", METHOD.format(name="Brightness", alias="dropped_bright"))
    found = plugins.available("methods")["dropped_brightness"]
    assert (found.summary, found.aliases, found.path) == (
        "What is bright in the clip that is explained.",
        ("dropped_bright",),
        path,
    )
    assert found.entry.group == "vidattr_bench.methods"
    method = plugins.create("methods", "dropped_bright:power=2")
    assert method.power == 2.0
    assert plugins.label("methods", method) == "dropped_brightness:power=2.0"
    assert plugins.full_spec("methods", method) == "dropped_brightness:power=2.0,range=null"


def test_helpers_are_no_plugins(folder):
    drop(folder, "_helper", "raise SystemExit")
    assert "_helper" not in plugins.available("methods")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class A(:", "does not parse"),
        ("x = 1", "holds 0"),
        ("class A: ...\nclass B: ...", "holds 2"),
        (METHOD.format(name="Brightness", alias="gradient"), "two plug-ins of kind methods are called 'gradient'"),
    ],
)
def test_broken_files_are_named(folder, text, reason):
    drop(folder, "dropped_broken", text)
    with pytest.raises(PluginError, match=reason) as error:
        plugins.available("methods")
    assert "dropped_broken.py" in str(error.value)


def test_two_files_of_one_name(folder, tmp_path_factory):
    drop(folder, "gradient", METHOD.format(name="Brightness", alias="dropped_bright"))
    with pytest.raises(PluginError, match="called 'gradient'"):
        plugins.available("methods")


def test_a_file_that_does_not_import(folder):
    drop(folder, "dropped_failing", "import no_such_module\nclass Failing:\n    '''Fails.'''\n")
    assert "dropped_failing" in plugins.available("methods")
    with pytest.raises(PluginError, match=r"dropped_failing.py.*no_such_module"):
        plugins.load("methods", "dropped_failing")


def test_a_field_called_name_does_not_rename_the_plugin(folder):
    text = METHOD.format(name="Brightness", alias="dropped_bright").replace("power: float = 1.0", "name: str = 'x'")
    drop(folder, "dropped_named", text.replace("** self.power", ""))
    assert plugins.label("methods", plugins.create("methods", "dropped_named:name=y")) == "dropped_named:name=y"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("grad_cm", "did you mean grad_cam?"),
        ("desalinett", "desalinet"),
        ("grad_cam:poool=frame", "did you mean pool?"),
        ("grad_cam:pool=frames", "pool.*frames"),
        ("integrated_gradients:steps=many", "steps.*many"),
    ],
)
def test_unknown_names_and_values(text, reason):
    with pytest.raises(PluginError, match=reason) as error:
        plugins.create("methods", text)
    assert "\n" not in str(error.value)


def test_unknown_kind():
    with pytest.raises(PluginError, match="did you mean methods"):
        plugins.available("method")


@dataclasses.dataclass(frozen=True)
class Configured:
    """Fields of all types that specs hold."""

    root: Path
    count: int | None = None
    flag: bool = True
    share: float = 0.5
    size: tuple[int, int] | None = None
    shares: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    text: str = ""
    resize: int | tuple[int, int] | None = None
    made: tuple[int, ...] = dataclasses.field(default_factory=lambda: (1, 2))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"count": 3, "flag": False, "size": (3, 4), "resize": (7, 8)},
        {"share": math.inf, "shares": (0.1, 1e-07), "resize": 9},
        {"words": ("a b", "c,d", "(e"), "text": 'say "no", (or: yes)'},
        {"text": "null", "words": ("", "1"), "made": ()},
    ],
)
def test_every_type_survives_its_spec(values):
    configured = Configured(Path("/a b/c"), **values)
    for text in (plugins.label("methods", configured), plugins.full_spec("methods", configured)):
        assert plugins.configure(Configured, parse(text)) == configured


def test_the_label_omits_defaults_made_by_a_factory():
    assert plugins.label("methods", Configured(Path("x"))) == "test_plugins:root=x"


def test_options_need_no_text():
    configured = plugins.configure(Configured, parse("c:count=1"), root=Path("/x"), count=2)
    assert (configured.root, configured.count) == (Path("/x"), 2)
    with pytest.raises(PluginError, match="root"):
        plugins.configure(Configured, parse("c:count=1"))


BASES = '''
from vidattr_bench.method import SignedMethod

class Left(SignedMethod):
    """Left of the two.

    Attributes:
        first, second: what both are,
            in two lines.
    """
    family = "left"
    first: int = 1
    second: int = 2

class Right(SignedMethod):
    """Right of the two.

    Attributes:
        sign: what the right one makes of it.
        second: never told, since the left one is asked first.
    """
    reference = "Right 2020"
    second: int = 3
'''
CHILD = '''
from ._dropped_bases import Left as _Left, Right

class Child(_Left, Right):
    """A child of two.

    Attributes:
        first: its own word.

    Raises:
        ValueError: always.
    """
'''


def test_what_bases_say_of_their_fields_and_facts_is_inherited_in_the_order_of_python(folder):
    drop(folder, "_dropped_bases", BASES)
    drop(folder, "dropped_child", CHILD)
    found = plugins.available("methods")["dropped_child"]
    assert found.options == {
        "first": "its own word.",
        "second": "what both are, in two lines.",
        "sign": "what the right one makes of it.",
    }
    assert (found.declared["family"], found.declared["reference"]) == ("left", "Right 2020")
    section = render("methods", "md").partition("## dropped_child\n\n")[2].partition("\n\n## ")[0]
    assert section.startswith("A child of two.\n\nOptions:\n\n- `first`: its own word.\n- `second`: ")
    assert "ValueError" not in section
    (record,) = [one for one in json.loads(render("methods", "json")) if one["name"] == "dropped_child"]
    assert record["options"] == found.options


def test_bases_are_found_through_the_names_that_the_package_exports():
    path = ROOT / "tests" / "plugin" / "vidattr_plugin_example" / "brightness.py"
    (node,) = [node for node in sources.parse(path).body if isinstance(node, ast.ClassDef)]
    assert [one.name for one in sources.lineage(node, path)] == ["Brightness", "AttributionMethod"]


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_option_of_every_plugin_is_described_once(kind):
    for name, plugin in plugins.available(kind).items():
        fields = [field.name for field in dataclasses.fields(plugins.load(kind, name)) if field.init]
        assert sorted(fields) == sorted(option for key in plugin.options for option in key.split(", ")), name


def test_version_changes_with_the_file_and_its_helpers(folder):
    drop(folder, "dropped_brightness", METHOD.format(name="Brightness", alias="dropped_bright"))
    method = plugins.create("methods", "dropped_brightness")
    first = plugins.version(method)
    drop(folder, "_helper", "x = 1")
    assert plugins.version(method) != first


def test_version_changes_with_what_the_file_imports_from_its_folder(folder):
    drop(folder, "dropped_brightness", METHOD.format(name="Brightness", alias="dropped_bright"))
    drop(
        folder,
        "dropped_twin",
        "from .dropped_brightness import Brightness as _Base\n\n\nclass Twin(_Base):\n    pass\n",
    )
    method = plugins.create("methods", "dropped_twin")
    first = plugins.version(method)
    drop(folder, "dropped_brightness", METHOD.format(name="Brightness", alias="dropped_light"))
    assert plugins.version(method) != first


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("smooth:of=(grad_cam)", "smooth"),
        ("smooth:of=gradient,samples=3", "smooth:of=gradient,samples=3"),
        ("smooth:of=(blurred:of=(grad_cam:pool=frame))", "smooth:of=(blurred:of=(grad_cam:pool=frame))"),
        ("selective_relevance:of=(salinet:pool=l2)", "selective_relevance:of=(gradient:pool=l2)"),
    ],
)
def test_a_spec_nests_in_another(text, label):
    method = plugins.create("methods", text)
    assert plugins.label("methods", method) == label
    for written in (label, plugins.full_spec("methods", method)):
        assert plugins.create("methods", written) == method
    assert "pool=" in plugins.full_spec("methods", method)


def test_a_nested_spec_that_makes_no_sense_is_named():
    with pytest.raises(PluginError, match="did you mean grad_cam"):
        plugins.create("methods", "smooth:of=(gradcam)")
    with pytest.raises(PluginError, match="poool"):
        plugins.create("methods", "smooth:of=(grad_cam:poool=frame)")
    with pytest.raises(PluginError, match="sees the truth"):
        plugins.create("methods", "smooth:of=oracle")


def test_version_changes_with_what_a_wrapper_holds():
    one, other = (plugins.create("methods", f"smooth:of={name}") for name in ("grad_cam", "edges"))
    assert plugins.version(one) != plugins.version(other)


def test_listing_imports_neither_torch_nor_a_plugin():
    printed = python(
        """
        import sys
        from vidattr_bench import plugins
        count = sum(len(plugins.available(kind)) for kind in plugins.KINDS)
        heavy = {"torch", "numpy", "pytorch_lightning", "jsonargparse"} & set(sys.modules)
        loaded = [name for name in sys.modules if name.startswith(("vidattr_bench.methods.", "vidattr_bench.models."))]
        print(count > 10, heavy or loaded)
        """
    )
    assert printed == "True []"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the example of a third party is installed."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for path in (ROOT / "tests" / "plugin").rglob("*"):
        if path.suffix in (".py", ".toml"):
            copy = source / path.relative_to(ROOT / "tests" / "plugin")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


def test_a_third_party_is_found_configured_and_checked(site):
    printed = python(
        """
        import sys
        from vidattr_bench import plugins
        found = [plugins.available("methods")["brightness"], plugins.available("metrics")["peak"]]
        assert "vidattr_plugin_example" not in sys.modules and "torch" not in sys.modules
        assert all("vidattr_plugin_example" in str(plugin.path) for plugin in found)

        import torch
        from vidattr_bench.testing import check_method, check_metric
        torch.set_num_threads(1)
        method, metric = plugins.create("methods", "bright:power=2"), plugins.create("metrics", "peak")
        check_method(method)
        check_metric(metric)
        print(plugins.label("methods", method), plugins.label("metrics", metric))
        """,
        site,
    )
    assert printed == "brightness:power=2.0 peak"


def test_a_third_party_stands_in_all_methods_and_in_the_table(site, tmp_path):
    printed = python(
        f"""
        from vidattr_bench.cli import main
        from vidattr_bench.plan import all_methods
        assert "brightness" in all_methods()
        words = "run --dataset planted_actions:clips=2 --methods brightness --metrics peak --pictures 0 --output"
        assert main([*words.split(), {str(tmp_path / "run")!r}]) == 0
        """,
        site,
    )
    assert "brightness" in printed
    assert "peak" in printed


def test_a_third_party_gates_its_own_method_in_its_own_tests(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{site}", "ACCEPTED": str(tmp_path / "accepted")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # where the package is installed, it would be loaded twice
    run = "-m vidattr_bench run --dataset planted_actions:clips=4 --methods brightness --metrics roc_auc --pictures 0"
    tests = f"-m pytest -q -c {os.devnull} -p vidattr_bench.pytest_plugin -p no:cacheprovider --rootdir"
    for words in (
        [*run.split(), "--output", str(tmp_path / "accepted")],
        [*tests.split(), str(tmp_path), str(ROOT / "tests/plugin/tests")],
    ):
        done = subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_an_entry_point_without_its_module(site, tmp_path):
    info = tmp_path / "gone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vidattr_bench.methods]\ngone = no_such_package.gone\n")
    printed = python(
        """
        from vidattr_bench import plugins
        try:
            plugins.available("methods")
        except plugins.PluginError as error:
            print(error)
        """,
        tmp_path,
    )
    assert "gone = no_such_package.gone" in printed
