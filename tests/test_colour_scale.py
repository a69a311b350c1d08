"""Zero is dark on maps of either kind, opposite relevance has opposite colours, and what is said of a scale is so."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from vidattr_bench import colour_scale

T, H, W = 5, 24, 32
GREY = np.full((T, H, W, 3), 128, np.uint8)
SIGNED = np.random.default_rng(1).normal(size=(T, H, W)).astype(np.float32)
MAPS = hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-1e6, 1e6, width=32))


def drawn(relevance):
    """The colour of every voxel of a map, in [0, 1], without the half that the frame gives."""
    shown = np.asarray(relevance, np.float32)
    return (2.0 * colour_scale.heat(np.zeros((*shown.shape, 3), np.uint8), shown)) / 255


def lightness(colours):
    return colours @ np.array([0.299, 0.587, 0.114])


def ramp(low, high):
    return np.linspace(low, high, 129, dtype=np.float32).reshape(1, 1, -1)


@given(MAPS, st.floats(0.01, 100))
@settings(max_examples=30)
def test_zero_stays_zero_signs_stay_and_a_factor_changes_nothing(relevance, factor):
    relevance[0, 0, 0] = 0
    shown = colour_scale.scaled(relevance)
    assert np.abs(shown).max() == (1 if relevance.any() else 0)
    assert (shown[relevance == 0] == 0).all()
    assert (shown * relevance >= 0).all()
    if np.abs(relevance).max() > 1:
        np.testing.assert_allclose(colour_scale.scaled(relevance * np.float32(factor)), shown, atol=1e-3)


@given(MAPS)
@settings(max_examples=30)
def test_the_opposite_of_a_map_with_both_signs_is_its_mirror_image(relevance):
    relevance[0, 0, :2] = -1, 1
    np.testing.assert_array_equal(colour_scale.scaled(-relevance), -colour_scale.scaled(relevance))


@pytest.mark.parametrize("relevance", [SIGNED, SIGNED - SIGNED.min(), np.where(SIGNED > 0, 100 * SIGNED, SIGNED)])
def test_zero_has_the_colour_without_hue_and_the_least_light(relevance):
    relevance = relevance.copy()
    relevance[2, 3, 4] = 0
    zero = drawn(colour_scale.scaled(relevance))[2, 3, 4]
    assert np.ptp(zero) < 0.02
    assert lightness(zero) <= lightness(drawn(colour_scale.scaled(relevance))).min() + 0.01


def test_both_sides_grow_lighter_from_zero_on_alike_and_differ_in_hue():
    up, down = drawn(ramp(0, 1))[0, 0], drawn(ramp(0, -1))[0, 0]
    for side in (up, down):
        # Frames hold whole numbers, so that colours are known to a half of 2 / 255.
        assert (np.diff(lightness(side)) > -0.008).all()
        assert (np.diff(lightness(side)[::16]) > 0.01).all()
    np.testing.assert_allclose(lightness(up), lightness(down), atol=0.06)
    assert (up[32:, 0] > up[32:, 2] + 0.1).all()
    assert (down[32:, 2] > down[32:, 0] + 0.1).all()


def test_heat_is_half_frame_and_half_colour():
    np.testing.assert_allclose(
        colour_scale.heat(GREY, SIGNED.clip(-1, 1)), 64 + 127.5 * drawn(SIGNED.clip(-1, 1)), atol=1.01
    )


def test_focus_has_opacity_from_20_to_255_and_shows_no_evidence_against():
    frames = np.random.default_rng(0).integers(0, 256, size=(T, H, W, 3), dtype=np.uint8)
    for value, opacity in ((1, 255), (0.5, 137.5), (0, 20), (-1, 20)):
        seen = colour_scale.focus(frames, np.full((T, H, W), value, np.float32))
        np.testing.assert_allclose(seen, frames * (opacity / 255), atol=0.5)


def test_outliers_do_not_hide_the_others_and_a_lone_peak_is_seen():
    relevance = np.linspace(-1, 1, 5 * 8 * 10, dtype=np.float32).reshape(5, 8, 10)
    relevance[0, 0, 0] = -1000
    dark, reach = colour_scale.scale_of(relevance)
    assert dark == 0
    assert 0.9 < reach < 4
    assert np.mean(np.abs(relevance) <= reach) >= colour_scale.WITHIN - 1 / relevance.size
    peak = np.zeros((5, 8, 10))
    peak[2, 3, 4] = 7
    np.testing.assert_array_equal(colour_scale.scaled(peak), peak / 7)


def test_a_map_that_lies_above_zero_is_dark_where_it_is_least():
    offset = 0.4 + np.linspace(0, 0.1, T * H * W).reshape(T, H, W)
    shown = colour_scale.scaled(offset)
    assert shown.min() == 0
    np.testing.assert_allclose(shown, colour_scale.scaled(offset - 0.4), atol=1e-6)


@pytest.mark.parametrize("value", [0, 0.5, -2])
def test_a_constant_map_says_so_and_shows_no_evidence(value):
    constant = np.full((T, H, W), value)
    assert colour_scale.scaled(constant).max() <= 0
    assert np.ptp(colour_scale.scaled(constant)) == 0
    assert colour_scale.spoken(constant) == [f"{value:g} everywhere".replace("-", "\N{MINUS SIGN}")]


def test_what_is_said_of_a_scale_are_its_ends():
    rising = np.arange(1001, dtype=np.float32).reshape(1, 7, 143)
    assert colour_scale.spoken(rising) == ["values 0 to 1e+03", "scale 0 to 995"]
    assert colour_scale.spoken(rising + 100) == ["values 100 to 1.1e+03", "scale 100 to 1.1e+03"]
    minus = "\N{MINUS SIGN}"
    assert colour_scale.spoken(rising / 1000 - 1) == [f"values {minus}1 to 0", f"scale {minus}0.995 to 0.995"]
    assert colour_scale.scaled(rising).flat[995] == 1 > colour_scale.scaled(rising).flat[994]
