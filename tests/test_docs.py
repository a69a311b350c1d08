"""What the pages of docs/ show is run."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch

from vidattr_bench import datasets, methods, plugins
from vidattr_bench.fixtures import explain, small_batch, small_model
from vidattr_bench.listing import render
from vidattr_bench.testing import check_dataset
from vidattr_bench.video import write_video

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def method_page(tmp_path, monkeypatch):
    """The code that checks the method of docs/add_a_method.md, which was dropped into a folder of methods."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    code, check = blocks("add_a_method.md")
    (tmp_path / "method_of_the_page.py").write_text(code, encoding="utf-8")
    yield check.replace("motion_x_gradient", "method_of_the_page")
    sys.modules.pop("vidattr_bench.methods.method_of_the_page", None)


def test_the_method_of_the_page_keeps_the_contract(method_page):
    exec(compile(method_page, "add_a_method.md", "exec"), {})
    method = plugins.create("methods", "method_of_the_page:sign=absolute")
    assert plugins.label("methods", method) == "method_of_the_page:sign=absolute"
    signed = explain(dataclasses.replace(method, sign="signed"), small_model(), small_batch())
    torch.testing.assert_close(explain(method, small_model(), small_batch()), signed.abs())


def test_the_data_set_of_the_page_keeps_the_contract(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path / "plugins")])
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "class_folders.py").write_text(blocks("add_a_dataset.md")[0], encoding="utf-8")
    for i, name in enumerate(("jump", "run", "walk")):
        (tmp_path / "clips" / name).mkdir(parents=True)
        frames = torch.full((9, 24, 36, 3), 60 * (i + 1), dtype=torch.uint8)
        write_video(tmp_path / "clips" / name / f"{name}_1.avi", frames, lossless=True)
    module = plugins.create("datasets", f'class_folders:root={tmp_path / "clips"},length=4,size="[12, 18]"')
    check_dataset(module)
    assert module.classes == ("jump", "run", "walk")
    assert module.load(module.refs()[1]).frames.mean().item() == pytest.approx(120 / 255, abs=0.02)
    sys.modules.pop("vidattr_bench.datasets.class_folders", None)


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_the_generated_pages_say_what_the_docstrings_say(kind):
    """Run `python -m vidattr_bench list KIND --format md > docs/KIND.md` where this fails."""
    written = dict(re.findall(r"^## (\S+)\n\n(.*?)(?=\n\n## |\Z)", (DOCS / f"{kind}.md").read_text(), re.M | re.S))
    current = dict(re.findall(r"^## (\S+)\n\n(.*?)(?=\n\n## |\Z)", render(kind, "md"), re.M | re.S))
    assert written
    assert {name: text.strip() for name, text in written.items()} == {name: current[name].strip() for name in written}


def test_a_dropped_file_is_on_the_generated_page(method_page):
    assert "## method_of_the_page\n\nWhat each voxel's change since the frame before" in render("methods", "md")
