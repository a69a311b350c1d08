"""Every data set that can be had here keeps the contract.

One that needs files is tested on fakes: tests/data/NAME.py holds `write(folder) -> root`, which writes them in their
real layout.
"""

import importlib.util
from pathlib import Path

import pytest

from vidattr_bench import plugins, spec
from vidattr_bench.errors import UserError
from vidattr_bench.testing import CHECKS

WRITERS = Path(__file__).parent / "data"


@pytest.fixture(scope="module", params=list(plugins.available("datasets")))
def dataset(request, tmp_path_factory):
    name, writer = request.param, WRITERS / f"{request.param}.py"
    options = {"root": _module(writer).write(tmp_path_factory.mktemp(name))} if writer.is_file() else {}
    try:
        dataset = plugins.create("datasets", spec.render(name, options))
        dataset.refs()
    except UserError as error:
        pytest.skip(f"no clips of {name} here: {error}")
    return dataset


def _module(path: Path):
    found = importlib.util.spec_from_file_location(f"write_{path.stem}", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("check", CHECKS["datasets"], ids=lambda check: check.__name__)
def test_contract(dataset, check):
    check(dataset)
