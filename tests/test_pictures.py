import numpy as np
import pytest
from PIL import Image

from vidattr_bench import colour_scale, pictures

EVIL = "evil_\\input{x}<script>[bold]"
T, H, W = 5, 24, 32


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, size=(T, H, W, 3), dtype=np.uint8)


@pytest.fixture
def relevance():
    return np.random.default_rng(1).normal(size=(T, H, W)).astype(np.float32)


@pytest.fixture
def tube():
    mask = np.zeros((T, H, W), dtype=bool)
    mask[1:4, 6:18, 8:28] = True
    return mask


def test_frames_are_spread_evenly():
    assert pictures.evenly_spaced(16, 8) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert pictures.evenly_spaced(5, 8) == [0, 1, 2, 3, 4]
    assert pictures.evenly_spaced(9, 3) == [1, 4, 7]


def test_outline_is_the_border_of_the_tube_and_nothing_else(frames, tube):
    outlined = pictures._outlined(frames, tube)
    np.testing.assert_array_equal(outlined[~tube], frames[~tube])
    np.testing.assert_array_equal(outlined[[0, 4]], frames[[0, 4]])
    assert (outlined[1:4, 6, 8:28] == 255).all()
    assert (outlined[1:4, 6:18, 27] == 255).all()
    assert (outlined[1:4, 7, 9:27] == 0).all()
    np.testing.assert_array_equal(outlined[1:4, 8:16, 10:26], frames[1:4, 8:16, 10:26])


def test_outline_closes_at_the_edge_of_the_frame(frames):
    outlined = pictures._outlined(frames, np.ones((T, H, W), dtype=bool))
    assert (outlined[:, [0, -1]] == 255).all()
    assert (outlined[:, :, [0, -1]] == 255).all()


def tiles(sheet, row, factor=4):
    """The tiles of a row of a sheet, cut out by the layout that the module declares."""
    h, w = H * factor, W * factor
    left = sheet.width - T * (w + pictures._GAP)
    y = pictures._FONT_SIZE + 2 * pictures._GAP + row * (h + pictures._GAP)
    pixels = np.asarray(sheet)
    return np.stack([pixels[y : y + h, left + at * (w + 4) : left + at * (w + 4) + w] for at in range(T)])


def test_strip_has_the_clip_on_top_and_a_row_a_method(frames, relevance):
    sheet = pictures.strip(frames, {"clip": relevance, "constant": np.ones_like(relevance)})
    large = [Image.fromarray(frame).resize((4 * W, 4 * H), Image.Resampling.BICUBIC) for frame in frames]
    plain = np.stack([np.asarray(frame) for frame in large])
    np.testing.assert_array_equal(tiles(sheet, 0), plain)
    assert np.abs(tiles(sheet, 1).astype(int) - plain).mean() > 10
    np.testing.assert_array_equal(tiles(sheet, 2), colour_scale.heat(plain, np.zeros(plain.shape[:3], np.float32)))


def test_relevance_is_scaled_over_the_clip_not_over_the_frames_shown(frames):
    rising = np.broadcast_to(np.arange(T, dtype=np.float32)[:, None, None], (T, H, W))
    white = np.full_like(frames, 255)
    sheet = pictures.strip(white, {"rising": rising}, style="focus", columns=2)
    y = pictures._FONT_SIZE + 2 * pictures._GAP + 4 * H + pictures._GAP + 20
    pixels = np.asarray(sheet)[y, :, 0]
    assert pictures.evenly_spaced(T, 2) == [1, 3]
    for share in (0.25, 0.75):
        np.testing.assert_allclose(np.isclose(pixels, 20 + 235 * share, atol=1).sum(), 4 * W, atol=4)


def legend(maps, tube=None, style="heat"):
    """The pixels below the sheet of a strip: of the bar's first, middle and last column, and how high all is."""
    frames = np.zeros((T, H, W, 3), np.uint8)
    sheet = pictures.strip(frames, maps, tube, style=style)
    below = pictures._FONT_SIZE + 2 * pictures._GAP + (1 + len(maps)) * (4 * H + pictures._GAP)
    row = np.asarray(sheet)[below + pictures._GAP + pictures._BAR[1] // 2].astype(int)
    left = pictures._FONT_SIZE
    return row[left], row[left + pictures._BAR[0] // 2], row[left + pictures._BAR[0] - 1], sheet.height - below


def test_the_bar_runs_from_blue_over_dark_to_red_only_where_a_map_is_negative(relevance):
    low, zero, high, _ = legend({"magnitude": np.abs(relevance), "signed": relevance})
    assert low[2] > low[0] + 20
    assert high[0] > high[2] + 20
    assert np.ptp(zero) < 10
    assert zero.sum() < min(low.sum(), high.sum()) - 100
    least, _, most, _ = legend({"magnitude": np.abs(relevance)})
    np.testing.assert_allclose(least, zero, atol=3)
    np.testing.assert_array_equal(most, high)
    dark, _, light, _ = legend({"magnitude": np.abs(relevance)}, style="focus")
    np.testing.assert_allclose([dark[0], light[0]], [pictures._GREY * 20 / 255, pictures._GREY], atol=1)


def test_the_legend_explains_an_outline_where_there_is_one(relevance, tube):
    plain = legend({"signed": relevance})[3]
    assert legend({"signed": relevance}, tube)[3] > plain
    assert legend({"signed": relevance}, np.zeros_like(tube))[3] == plain


def test_maps_that_differ_by_a_factor_differ_in_what_is_said_of_their_range_alone(frames, relevance):
    one, four = (pictures.strip(frames, {"gradient": factor * relevance}) for factor in (1, 4))
    np.testing.assert_array_equal(tiles(one, 1), tiles(four, 1))
    assert one.tobytes() != four.tobytes()


@pytest.mark.parametrize("size", [(48, 64), (64, 64), (112, 112), (300, 400)])
def test_tiles_are_large_enough_to_see(size):
    frames = np.zeros((2, *size, 3), dtype=np.uint8)
    sheet = pictures.strip(frames, {EVIL: np.zeros((2, *size))})
    assert sheet.width > 2 * 100
    assert sheet.height > 2 * 90


def test_labels_are_wrapped_and_never_lost_silently():
    assert pictures._wrapped("grad_cam") == ["grad_cam"]
    assert "".join(pictures._wrapped(EVIL)) == EVIL
    long = pictures._wrapped("x" * 500)
    assert len(long) == 4
    assert long[-1].endswith("...")
    assert pictures._wrapped("") == [""]


def test_inputs_are_not_modified(frames, relevance, tube):
    copies = frames.copy(), relevance.copy(), tube.copy()
    pictures.strip(frames, {"gradient": relevance}, tube)
    for now, before in zip((frames, relevance, tube), copies, strict=True):
        np.testing.assert_array_equal(now, before)


def test_a_map_of_another_size_is_refused(frames, relevance, tube, tmp_path):
    with pytest.raises(ValueError, match=r"gradient has shape \(5, 32, 24\)"):
        pictures.strip(frames, {"gradient": relevance.transpose(0, 2, 1)})
    with pytest.raises(ValueError, match="tube has shape"):
        pictures.animation(frames, relevance, tmp_path / "a.gif", tube[:2])


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_everything_of_a_clip_is_written_under_safe_names(frames, relevance, tube, tmp_path, suffix):
    maps = {"grad_cam": relevance, EVIL: -relevance, "../up": relevance}
    files = pictures.draw_clip(tmp_path / "clip", frames, maps, tube, suffix=suffix)
    assert sorted((tmp_path / "clip").iterdir()) == sorted(files)
    assert [path.name for path in files[:3]] == ["heat.png", "focus.png", f"film-grad_cam{suffix}"]
    assert all(path.stat().st_size > 500 for path in files)
    assert list(tmp_path.iterdir()) == [tmp_path / "clip"]


def test_film_shows_frame_heat_and_focus_side_by_side(tmp_path):
    white, most = np.full((T, H, W, 3), 255, np.uint8), np.zeros((T, H, W))
    most[2:] = 1
    with Image.open(pictures.animation(white, most, tmp_path / "film.gif")) as film:
        assert film.n_frames == T
        film.seek(T - 1)
        pixels = np.asarray(film.convert("RGB")).astype(int)
    panel = 6 * W + pictures._GAP
    full = colour_scale.heat(white[:1], np.ones((1, H, W), np.float32))[0, 0, 0]
    for at, colour in enumerate((np.full(3, 255), full, np.full(3, 255))):
        np.testing.assert_allclose(pixels[80, pixels.shape[1] - (2 * (3 - at) - 1) * panel // 2], colour, atol=20)


def test_frames_of_a_film_are_numbered(tmp_path):
    still = np.full((T, H, W, 3), 255, np.uint8)
    with Image.open(pictures.animation(still, np.zeros((T, H, W)), tmp_path / "film.gif", label="edges")) as film:
        looks = []
        for at in range(T):
            film.seek(at)
            looks.append(np.asarray(film.convert("L"))[: pictures._FONT_SIZE + 2 * pictures._GAP].tobytes())
    assert len(set(looks)) == T
