"""Spec strings: what they mean, how they are quoted, and that they come back as they went."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidattr_bench.errors import PluginError
from vidattr_bench.spec import Spec, parse, render

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]*", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("grad_cam", "grad_cam", {}),
        ("  grad_cam ", "grad_cam", {}),
        ("grad_cam:pool=frame,relu=false", "grad_cam", {"pool": "frame", "relu": "false"}),
        ("my.pkg:a=b=c", "my.pkg", {"a": "b=c"}),
        ("ucf101:root=/data/UCF-101,split=1", "ucf101", {"root": "/data/UCF-101", "split": "1"}),
        ('ucf101:root="/my data, old"', "ucf101", {"root": "/my data, old"}),
        ("d:root='C:\\\\x'", "d", {"root": "C:\\x"}),
        (r'm:a="say \"no\""', "m", {"a": 'say "no"'}),
        ('m:a="",b=1', "m", {"a": "", "b": "1"}),
        ("s:of=(grad_cam:pool=frame),k=2", "s", {"of": "grad_cam:pool=frame", "k": "2"}),
        ('s:of=(a:of=(b:c=")"))', "s", {"of": 'a:of=(b:c=")")'}),
    ],
)
def test_reading(text, name, options):
    assert parse(text) == Spec(name, options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with a name"),
        (":a=b", "must begin with a name"),
        ("m a", "expected ':'"),
        ("m:", "expected key=value"),
        ("m:a", "expected key=value"),
        ("m:a=1,", "expected key=value"),
        ("m:=1", "expected key=value"),
        ("m:a=", "expected a value"),
        ("m:a=,b=1", "expected a value"),
        ("m:a=1,a=2", "'a' is given twice"),
        ("m:a=1)", "expected ','"),
        ('m:a="x"y', "expected ','"),
        ('m:a="x', "quote is never closed"),
        ("m:a=(b:c=(d)", "parenthesis is never closed"),
        ('m:a=(b:c=")")x', "expected ','"),
    ],
)
def test_errors_show_the_place(text, reason):
    with pytest.raises(PluginError, match=f"{text!r}".replace("(", r"\(").replace(")", r"\)") + ".*") as error:
        parse(text)
    assert reason in str(error.value)


@given(names, st.dictionaries(names, st.text(), max_size=4))
def test_rendering_then_reading_gives_the_same_texts(name, options):
    assert parse(render(name, options)) == Spec(name, options)


@given(
    st.recursive(names, lambda inner: st.builds(lambda n, v, w: render(n, {"of": v, "k": w}), names, inner, st.text()))
)
def test_nested_specs_come_back(text):
    assert parse(render("outer", {"of": text})).options["of"] == text


def test_a_nested_spec_stands_in_parentheses():
    assert (
        render("selective_relevance", {"of": "grad_cam:pool=frame"}) == "selective_relevance:of=(grad_cam:pool=frame)"
    )


def test_values_are_written_so_that_their_types_come_back():
    options = {"none": None, "pair": (1, 2), "texts": ("a b", "c"), "tiny": 1e-07, "inf": float("-inf"), "yes": True}
    assert parse(render("m", options)).options == {
        "none": "null",
        "pair": "[1,2]",
        "texts": '["a b","c"]',
        "tiny": "1e-07",
        "inf": "-.inf",
        "yes": "True",
    }


def test_options_are_sorted():
    assert render("m", {"b": 1, "a": 2}) == "m:a=2,b=1"
