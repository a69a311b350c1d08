"""`sheet` draws the maps of the clips that are asked for, and says which methods have none."""

import json

import numpy as np
import pytest
from PIL import Image

from vidattr_bench import pictures
from vidattr_bench.cli import main

METHODS = ["--methods", "gradient", "oracle", "grad_cam:layer=head"]


def test_a_page_a_clip_and_a_word_about_what_has_no_map(tmp_path, capsys):
    status = main(["sheet", *METHODS, "--clips", "test-00003", "test-00001", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"test-00003.png", "test-00001.png"}
    assert "test-00003: grad_cam:layer=head: not_applicable" in said.replace("\n", " ")
    with Image.open(tmp_path / "test-00003.png") as page:
        assert np.asarray(page).std() > 20


def test_what_a_method_shows_beside_its_map_lies_beside_the_page(tmp_path):
    methods = ["class_feature_pyramid", "class_feature_pyramid:depth=1"]
    assert main(["sheet", "--methods", *methods, "--output", str(tmp_path)]) == 0
    graphs = sorted(tmp_path.glob("*.json"))
    assert len(graphs) == 2
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert {"target", "layers", "edges"} == set(json.loads(graphs[0].read_text()))


def test_clips_are_spaced_over_the_split_where_none_is_named(tmp_path):
    assert main(["sheet", "--methods", "edges", "--limit", "2", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_clip_that_is_not_there_is_named_with_its_neighbour(tmp_path, capsys):
    assert main(["sheet", "--methods", "edges", "--clips", "test-0000", "--output", str(tmp_path)]) == 2
    assert "no clip 'test-0000'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("methods", "abreast", "rows"), [(1, 3, 1), (4, 3, 2), (6, 3, 2), (7, 3, 3), (5, 1, 5)])
def test_strips_stand_side_by_side(methods, abreast, rows):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
    maps = {f"m{i}": np.random.default_rng(i).random((5, 32, 48)) for i in range(methods)}
    page = pictures.contact_sheet(frames, maps, columns=2, abreast=abreast)
    one = pictures.strip(frames, dict(list(maps.items())[:rows]), columns=2)
    assert page.height == one.height
    rows_of_tiles = one.height - 60
    np.testing.assert_array_equal(np.asarray(page)[:rows_of_tiles, :250], np.asarray(one)[:rows_of_tiles, :250])
