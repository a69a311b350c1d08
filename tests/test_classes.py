"""Classes are matched by name, never by position, unless the model has no names at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidattr_bench.classes import match, read_class_map, read_classes
from vidattr_bench.errors import ModelError

MODEL = ["drink", "Play Guitar", "hand_stand", "walk"]


@given(st.permutations(["a", "b", "c", "d", "e"]), st.permutations(["a", "b", "c", "d", "e"]))
def test_each_class_finds_its_own_name(dataset, model):
    assert [model[i] for i in match(dataset, model)] == list(dataset)


def test_a_data_set_may_know_fewer_classes_than_the_model():
    assert match(["walk", "drink"], MODEL) == [3, 0]


def test_spelling_apart_in_case_spaces_underscores_or_hyphens_is_the_same_name():
    assert match(["DRINK", "PlayGuitar", "HandStand", "play_guitar"][:3], MODEL) == [0, 1, 2]
    assert match(["play-guitar"], MODEL) == [1]


@pytest.mark.parametrize(
    ("dataset", "model"),
    [
        (["play guitar", "PlayGuitar"], ["play_guitar", "walk"]),
        (["play guitar"], ["play_guitar", "PlayGuitar"]),
    ],
)
def test_an_ambiguous_spelling_matches_nothing(dataset, model):
    with pytest.raises(ModelError, match="play guitar"):
        match(dataset, model)


def test_the_same_name_wins_over_a_similar_one():
    assert match(["walk"], ["Walk", "walk"]) == [1]


def test_the_class_map_goes_first_and_may_say_that_a_class_is_missing():
    assert match(["sip", "walk", "drink"], MODEL, {"sip": "drink", "walk": "hand_stand"}) == [0, 2, 0]
    assert match(["sip", "walk"], MODEL, {"sip": None}) == [-1, 3]


def test_classes_without_counterpart_are_counted_and_named_with_the_remedy():
    dataset = ["walk", *(f"action {i}" for i in range(7))]
    with pytest.raises(
        ModelError, match=r"7 of the data set's 8 .* model's 4: action 0, .*, action 4, \.\.\. .*--class-map"
    ):
        match(dataset, MODEL)


def test_a_class_map_is_checked_against_both_sides():
    with pytest.raises(ModelError, match="data set has no class 'wlak'; did you mean walk"):
        match(["walk"], MODEL, {"wlak": "walk"})
    with pytest.raises(ModelError, match="walk: the model has no class 'drnk'; did you mean drink"):
        match(["walk"], MODEL, {"walk": "drnk"})


def test_a_model_without_names_takes_the_order_of_the_data_set():
    assert match(["b", "a", "c"], [], logits=3) == [0, 1, 2]
    for logits in (2, 4, None):
        with pytest.raises(ModelError, match=f"{logits} logits, the data set 3 classes"):
            match(["b", "a", "c"], [], logits=logits)
    with pytest.raises(ModelError, match="no class names that --class-map"):
        match(["b", "a", "c"], [], {"b": "a"}, logits=3)


def test_two_classes_of_one_name_are_an_error():
    with pytest.raises(ModelError, match="two classes called 'a'"):
        match(["a"], ["a", "b", "a"])


MAPS = {
    "map.yaml": "no: 'yes'\n1: on\nopen door: opening door\nwash:\nrest: null\n",
    "map.yml": '{"no": "yes", "1": "on", "open door": "opening door", "wash": null, "rest": null}',
    "map.json": '{"no": "yes", "1": "on", "open door": "opening door", "wash": null, "rest": null}',
    "map.csv": 'no,yes\n1, on\n"open door",opening door\n\nwash,\nrest,""\n',
    "map.tsv": "no\tyes\n1\ton\nopen door\topening door\nwash\t\nrest\t\n",
}


@pytest.mark.parametrize("name", MAPS)
def test_every_kind_of_class_map_says_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_text(MAPS[name], encoding="utf-8-sig")
    expected = {"no": "yes", "1": "on", "open door": "opening door", "wash": None, "rest": None}
    assert read_class_map(path) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.txt", "a b", "is a .yaml, .yml, .json, .csv, .tsv file"),
        ("map.yaml", "", "empty"),
        ("map.json", "{}", "empty"),
        ("map.csv", "", "empty"),
        ("map.yaml", "a: b\na: c\n", "'a' is listed twice"),
        ("map.json", '{"a": "b", "a": "c"}', "'a' is listed twice"),
        ("map.csv", "a,b\na,c\n", "'a' is listed twice"),
        ("map.yaml", "- a\n- b\n", "no class map.*mapping"),
        ("map.yaml", "a: [b]\n", "no class map.*line 1"),
        ("map.yaml", "a: b: c", "no class map"),
        ("map.json", '["a", "b"]', "no class map"),
        ("map.json", '{"a": 1}', "counterpart of 'a'"),
        ("map.json", '{"a": ', "no class map"),
        ("map.csv", "a,b,c\n", "two columns"),
        ("map.yaml", "a: !!python/object/apply:os.getcwd []\n", "no class map"),
    ],
)
def test_a_wrong_class_map_is_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ModelError, match=f"{name}.*{message}"):
        read_class_map(path)


@pytest.mark.parametrize("read", [lambda path: read_class_map(path.with_suffix(".yaml")), read_classes])
def test_an_unreadable_file_is_named(tmp_path, read):
    with pytest.raises(ModelError, match=r"cannot read .*names\.\w+: No such file"):
        read(tmp_path / "names.txt")
    for suffix in (".txt", ".yaml"):
        (tmp_path / f"names{suffix}").write_bytes(b"caf\xe9: x")
    with pytest.raises(ModelError, match="no UTF-8 text"):
        read(tmp_path / "names.txt")


def test_class_lists_are_lines_or_numbered_lines(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("open door\n\n wash \n3 pointer\n")
    assert read_classes(path) == ("open door", "wash", "3 pointer")
    path.write_bytes(b"2 Wash\r\n1 Open door\r\n")
    assert read_classes(path) == ("Open door", "Wash")
    path.write_text("0,Open door\n1,Wash\n")
    assert read_classes(path) == ("Open door", "Wash")
    for wrong in ("1 a\n3 b\n", "2 a\n3 b\n", "1 a\n1 b\n"):
        path.write_text(wrong)
        with pytest.raises(ModelError, match="2 numbered classes must count"):
            read_classes(path)
    path.write_text("\n")
    with pytest.raises(ModelError, match="names no class"):
        read_classes(path)


@pytest.mark.real
def test_the_real_lists_agree_by_name_where_their_orders_differ(real_data):
    official = read_classes(real_data / "ucf101" / "splits" / "classInd.txt")
    swapped = list(official)
    for one, other in (("HammerThrow", "Hammering"), ("JumpRope", "JumpingJack")):
        i, j = official.index(one), official.index(other)
        swapped[i], swapped[j] = other, one
    index = match(official, swapped)
    assert [official[i] for i in index] != list(official)
    assert [swapped[i] for i in index] == list(official)


@pytest.mark.real
def test_kinetics_names_a_class_a_line(real_data):
    names = read_classes(real_data / "kinetics" / "label_map_400.txt")
    assert len(names) == len(set(names)) == 400
