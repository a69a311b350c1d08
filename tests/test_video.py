"""Decoding: exact counts and frames, seeks that change nothing, and refusal of whatever is damaged or disguised."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vidattr_bench import stills, video
from vidattr_bench.errors import DataError
from vidattr_bench.video import frame_count, read_chosen, read_frames, write_video

T, H, W = 23, 34, 46
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_VIDEOS = sorted(
    path
    for pattern in ("ucf101/UCF-101/*/*", "hmdb51/*/*", "kinetics/clips/*.mp4", "epic/clips/*.mp4")
    for path in REAL.glob(pattern)
)


def drawn(t: int = T, h: int = H, w: int = W) -> torch.Tensor:
    """Smooth frames that all differ: a gradient whose blue tells the frame, and a square that walks."""
    frames = torch.zeros(t, h, w, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(h)[:, None] * 5
    frames[..., 1] = torch.arange(w) * 4
    frames[..., 2] = torch.arange(t)[:, None, None] * 9
    for i in range(t):
        frames[i, 2:10, i : i + 10] = 255
    return frames


def folder_of(path: Path, frames: torch.Tensor, pattern: str = "{:05d}.jpg", first: int = 1) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames.numpy(), start=first):
        Image.fromarray(frame).save(path / pattern.format(i), quality=95)
    return path


def refused_or_equal(path: Path, whole: torch.Tensor) -> None:
    """A damaged file either raises, naming itself, or gives frames of the intact one."""
    try:
        n = frame_count(path)
    except DataError as refusal:
        message = str(refusal)
    else:
        assert torch.equal(read_frames(path, range(n)), whole[:n])
        return
    assert path.name in message


@pytest.fixture
def avi(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.avi", drawn())
    return tmp_path / "clip.avi"


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_lossless_file_gives_back_every_bit(tmp_path, suffix):
    noise = torch.randint(0, 256, (5, 33, 47, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / f"clip{suffix}", noise, 25, lossless=True)
    assert frame_count(tmp_path / f"clip{suffix}") == 5
    assert torch.equal(read_frames(tmp_path / f"clip{suffix}", range(5)), noise)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".gif"])
def test_a_lossy_file_gives_back_count_order_and_about_the_pixels(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_video(path, drawn(), fps=29.97)
    assert frame_count(path) == T
    difference = (read_frames(path, [17, 3, 17])[:, None].int() - drawn().int()).abs().float().mean((2, 3, 4))
    assert difference.argmin(1).tolist() == [17, 3, 17]
    assert difference.min(1).values.max() < (8 if suffix == ".gif" else 4)


def test_equal_frames_of_a_gif_stay_frames(tmp_path):
    write_video(tmp_path / "still.gif", drawn()[:1].repeat(6, 1, 1, 1))
    assert frame_count(tmp_path / "still.gif") == 6


def test_an_odd_size_is_made_even_by_repeating_the_edge(tmp_path):
    write_video(tmp_path / "odd.mp4", drawn(3, 33, 45))
    assert read_frames(tmp_path / "odd.mp4", [0]).shape == (1, 34, 46, 3)


# Entries a, b, c, d of display matrices and what they make of a picture: phones write turns, front cameras mirrors.
ONE = 1 << 16
DISPLAYED = {
    "a quarter turn clockwise": ((0, ONE, -ONE, 0), lambda x: x.rot90(-1, (1, 2))),
    "a half turn": ((-ONE, 0, 0, -ONE), lambda x: x.rot90(2, (1, 2))),
    "a quarter turn back": ((0, -ONE, ONE, 0), lambda x: x.rot90(1, (1, 2))),
    "mirrored": ((-ONE, 0, 0, ONE), lambda x: x.flip(2)),
    "upside down": ((ONE, 0, 0, -ONE), lambda x: x.flip(1)),
    "mirrored and turned": ((0, ONE, ONE, 0), lambda x: x.transpose(1, 2)),
    "turned and mirrored": ((0, -ONE, -ONE, 0), lambda x: x.rot90(2, (1, 2)).transpose(1, 2)),
    "44 degrees clockwise": ((47142, 45525, -45525, 47142), lambda x: x),
    "46 degrees clockwise": ((45525, 47142, -47142, 45525), lambda x: x.rot90(-1, (1, 2))),
}


@pytest.mark.parametrize("case", DISPLAYED)
def test_a_video_is_turned_and_mirrored_as_its_display_matrix_says(tmp_path, case):
    (a, b, c, d), displayed = DISPLAYED[case]
    write_video(tmp_path / "stored.mp4", drawn())
    data = bytearray((tmp_path / "stored.mp4").read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "shown.mp4").write_bytes(data)
    stored, shown = (read_frames(tmp_path / name, [4, 20]) for name in ("stored.mp4", "shown.mp4"))
    assert torch.equal(shown, displayed(stored))


def test_a_photograph_taken_on_end_is_turned_upright(tmp_path):
    folder = folder_of(tmp_path / "clip", drawn(1))
    level = read_frames(folder, [0])
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(drawn(1)[0].numpy()).save(folder / "00001.jpg", quality=95, exif=exif)
    assert torch.equal(read_frames(folder, [0]), level.rot90(-1, (1, 2)))


@pytest.mark.parametrize(("pattern", "first"), [("{:05d}.jpg", 1), ("frame_{:010d}.jpg", 1), ("img_{:d}.png", 0)])
def test_a_folder_of_numbered_pictures_is_a_video(tmp_path, pattern, first):
    folder = folder_of(tmp_path / "clip", drawn(12), pattern, first)
    (folder / "Thumbs.db").write_bytes(b"no picture")
    assert frame_count(folder) == 12
    difference = read_frames(folder, [11, 9]).int() - drawn(12)[[11, 9]].int()
    assert difference.abs().float().mean() < (0.5 if pattern.endswith("png") else 4)


def test_seeking_returns_what_sequential_decoding_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_encoding", lambda path, lossless: ("libx264", "yuv420p", {"g": "5", "bf": "2"}))
    write_video(tmp_path / "keys.mp4", drawn())
    table = video._seek_table(tmp_path / "keys.mp4", 0, 0)
    assert len(table.keys) >= 5
    sequential = video._decode(tmp_path / "keys.mp4", range(T), video._SEQUENTIAL)
    for wanted in ([22], [4, 5, 11], [7, 21], list(range(T))):
        found = video._decode(tmp_path / "keys.mp4", wanted, table)
        assert sorted(found) == wanted
        assert all(np.array_equal(found[i], sequential[i]) for i in wanted)


@pytest.mark.parametrize(
    ("wanted", "runs"),
    [
        ([1, 4, 5, 9, 22], {0: [1, 4, 5, 9], 20: [22]}),
        ([11, 12, 16], {10: [11, 12, 16]}),
        ([7], {5: [7]}),
        ([0, 6, 9, 14, 20], {0: [0], 5: [6, 9, 14], 20: [20]}),
    ],
)
def test_no_seek_is_made_to_skip_a_few_frames(wanted, runs):
    table = video._SeekTable(range(T), (0, 5, 10, 15, 20))
    assert dict(table.runs(wanted)) == runs


def test_a_seek_that_lands_elsewhere_falls_back_to_sequential_decoding(avi, monkeypatch):
    wrong = video._SeekTable(tuple(range(100, 100 + T)), (0, 12))
    monkeypatch.setattr(video, "_seek_table", lambda *_: wrong)
    with pytest.raises(video._InexactSeekError):
        video._decode(avi, [15], wrong)
    assert torch.equal(read_frames(avi, [15]), torch.from_numpy(video._decode(avi, [15], video._SEQUENTIAL)[15])[None])


def ends(n: int) -> list[int]:
    """A choice that tells every count from every other one."""
    return [n - 1, 0, n // 2]


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4", "clip.mkv", "clip.gif", "folder"])
def test_frames_are_chosen_as_if_they_had_been_counted_before(tmp_path, name):
    if name == "folder":
        folder_of(tmp_path / name, drawn())
    else:
        write_video(tmp_path / name, drawn())
    chosen, total = read_chosen(tmp_path / name, ends)
    assert total == frame_count(tmp_path / name) == T
    assert torch.equal(chosen, read_frames(tmp_path / name, ends(T)))
    again, _ = read_chosen(tmp_path / name, ends)
    assert torch.equal(chosen, again)


@pytest.mark.parametrize("promised", [T, T + 1, T + 5, T - 3, 1, 0])
def test_packets_that_promise_another_number_of_frames_change_nothing(avi, monkeypatch, promised):
    """Of as many frames as promised, or one less, the file is decoded once; else it is read again."""
    expected, opened, reading = read_frames(avi, ends(T)), [], video._opened
    monkeypatch.setattr(video, "_promised", lambda path: (promised, promised - 1))
    monkeypatch.setattr(video, "_opened", lambda path: opened.append(path) or reading(path))
    chosen, total = read_chosen(avi, ends)
    assert total == T
    assert torch.equal(chosen, expected)
    once = promised in (T, T + 1)
    assert len(opened) == (1 if once else 2)


def test_damage_behind_the_chosen_frames_is_refused(avi):
    data = bytearray(avi.read_bytes())
    last = data.rindex(b"00dc", 0, data.rindex(b"idx1"))
    data[last + 12 : last + 40] = b"\xff" * 28
    avi.write_bytes(data)
    with pytest.raises(DataError, match=r"clip\.avi: is damaged, decoding stopped"):
        read_chosen(avi, lambda n: [0, 1])
    assert read_frames(avi, [0, 1]).shape == (2, H, W, 3)


def test_a_choice_beyond_the_end_or_of_nothing_is_refused(avi):
    with pytest.raises(DataError, match="ends before frame 23"):
        read_chosen(avi, lambda n: [0, n])
    write_video(avi, drawn(9))
    with pytest.raises(ValueError, match="indices"):
        read_chosen(avi, lambda n: [])


def test_frames_past_the_end_and_senseless_indices_are_refused(avi):
    with pytest.raises(DataError, match="ends before frame 23"):
        read_frames(avi, [3, T])
    for indices in ([], [-1]):
        with pytest.raises(ValueError, match="indices"):
            read_frames(avi, indices)


def test_a_missing_an_empty_and_a_folder_without_pictures_are_named(tmp_path):
    (tmp_path / "empty.avi").touch()
    (tmp_path / "folder.avi").mkdir()
    for name, what in (("none.avi", "no such video"), ("empty.avi", "empty"), ("folder.avi", "no numbered pictures")):
        for call in (frame_count, lambda path: read_frames(path, [0])):
            with pytest.raises(DataError, match=what) as caught:
                call(tmp_path / name)
            assert name in str(caught.value)


def test_a_playlist_or_protocol_never_opens_another_file(avi, tmp_path, monkeypatch):
    disguises = {
        "concat.avi": f"ffconcat version 1.0\nfile '{avi}'\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{avi}\n#EXT-X-ENDLIST\n",
        "list.avi": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{avi}\n#EXT-X-ENDLIST\n",
        "picture.avi": "P3 1 1 255 0 0 0",
        "text.mp4": "these are no pixels",
    }
    for name, text in disguises.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="cannot be opened as a video"):
            frame_count(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("concat:clip.avi|clip.avi", f"subfile,,start,0,end,0,,:{avi}", "http://localhost:9/a.avi", "pipe:0"):
        with pytest.raises(DataError, match="no such video"):
            frame_count(name)
    (tmp_path / "file:clip.avi").symlink_to(avi)
    assert frame_count("file:clip.avi") == T


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv", ".gif"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_never_gives_wrong_frames(tmp_path, suffix, kept):
    write_video(tmp_path / f"whole{suffix}", drawn())
    whole = read_frames(tmp_path / f"whole{suffix}", range(T))
    data = (tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * kept)])
    refused_or_equal(cut, whole)


def test_damage_to_a_picture_is_refused(tmp_path):
    folder = folder_of(tmp_path / "clip", drawn(4))
    data = (folder / "00003.jpg").read_bytes()
    for bad in (data[: len(data) // 2], b"", b"no picture at all"):
        (folder / "00003.jpg").write_bytes(bad)
        with pytest.raises(DataError, match=r"00003\.jpg"):
            read_frames(folder, [2])
    assert read_frames(folder, [0, 1, 3]).shape == (3, H, W, 3)


def test_a_gap_or_a_doubled_number_in_a_folder_is_refused(tmp_path):
    folder = folder_of(tmp_path / "gap", drawn(6))
    (folder / "00004.jpg").unlink()
    with pytest.raises(DataError, match="number 4 is missing"):
        frame_count(folder)
    late = folder_of(tmp_path / "late", drawn(3), first=2)
    with pytest.raises(DataError, match="number 1 is missing"):
        read_frames(late, [0])
    twice = folder_of(folder_of(tmp_path / "twice", drawn(3)), drawn(3), "flow_{:05d}.jpg")
    with pytest.raises(DataError, match="2 pictures carry the number"):
        frame_count(twice)


def test_pictures_of_different_sizes_are_refused(tmp_path):
    folder = folder_of(tmp_path / "clip", drawn(2))
    folder_of(folder, drawn(1, 20, 30), first=3)
    with pytest.raises(DataError, match="size of the frames changes"):
        read_frames(folder, [0, 2])


def test_the_count_follows_a_file_that_changes(tmp_path):
    for t in (4, 9):
        write_video(tmp_path / "clip.avi", drawn(t))
        assert frame_count(tmp_path / "clip.avi") == t


def test_writing_refuses_what_it_cannot_write(tmp_path):
    for name, lossless in (("clip.txt", False), ("clip.mp4", True), ("clip.gif", True)):
        with pytest.raises(DataError, match="cannot write"):
            write_video(tmp_path / name, drawn(2), lossless=lossless)
    for frames in (drawn().float(), drawn()[0], drawn()[..., :1], drawn()[:0]):
        with pytest.raises(ValueError, match="uint8"):
            write_video(tmp_path / "clip.avi", frames)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS, reason="the real clips do not lie beside the project (../shared/data)")
def test_every_seek_in_a_real_file_gives_the_sequential_frames():
    seekable = 0
    for path in REAL_VIDEOS:
        if stills.is_gif(path):
            continue
        table, n = video._seek_table(path, 0, 0), frame_count(path)
        if table is video._SEQUENTIAL:
            continue
        seekable += 1
        assert len(table.times) == n
        wanted = sorted({*range(0, n, max(n // 16, 1)), *(k for k in table.keys), *(k - 1 for k in table.keys[1:])})
        sequential, sought = (video._decode(path, wanted, use) for use in (video._SEQUENTIAL, table))
        assert all(np.array_equal(sequential[i], sought[i]) for i in wanted), path
    assert seekable >= 15


@pytest.mark.real
def test_headers_that_count_a_frame_too_many_and_names_in_latin_1(real_data):
    paths = list((real_data / "hmdb51" / "clips").iterdir())
    once = {path.name[:8]: read_chosen(path, ends)[1] for path in paths}
    assert {name: video._promised(path)[1] for name, path in zip(once, paths, strict=True)} == once
    counts = {path.name[:8]: frame_count(path) for path in paths}
    assert once == counts == {"RATRACE_": 72, "SchoolRu": 74, "TrumanSh": 48, "hmdb51_T": 83}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["Basketball/v_Basketball_g01_c01.avi", "Basketball/v_Basketball_g01_c02.mp4", "Skiing/v_Skiing_g24_c01.gif"],
)
def test_64_damaged_bytes_raise_or_change_nothing(real_data, tmp_path, name):
    path = real_data / "ucf101" / "UCF-101" / name
    whole = read_frames(path, range(frame_count(path)))
    data, damaged = path.read_bytes(), tmp_path / path.name
    generator = np.random.default_rng(7)
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        at = int(len(data) * share)
        damaged.write_bytes(data[:at] + generator.bytes(64) + data[at + 64 :])
        refused_or_equal(damaged, whole)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["Basketball/v_Basketball_g01_c01.avi", "SalsaSpin/v_SalsaSpin_g03_c01.mp4", "Skiing/v_Skiing_g24_c01.gif"]
)
def test_a_truncated_real_clip_is_refused(real_data, tmp_path, name):
    data = (real_data / "ucf101" / "UCF-101" / name).read_bytes()
    cut = tmp_path / Path(name).name
    for kept in (0.3, 0.5, 0.9, 0.99):
        cut.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(DataError, match=cut.name):
            frame_count(cut)


def with_pictures_that_are_not_coded(path, blank, n=32):
    """MPEG-4 whose packets of these numbers show nothing, as XviD and DivX write them for a frame that repeats."""

    def muxed(packet, number):
        if number in blank:
            # Start code of a picture, predicted, its time, and the bit that says that it is not coded.
            bits = int(f"0101{number % 25:05b}1001111", 2)
            empty = av.Packet(b"\0\0\1\xb6" + bits.to_bytes(2, "big"))
            empty.pts, empty.dts, empty.time_base, empty.stream = packet.pts, packet.dts, packet.time_base, stream
            packet = empty
        container.mux(packet)

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 25, options={"g": "8", "bf": "0", "qmin": "2", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * 7, np.uint8), format="rgb24") for i in range(n)]
        packets = [packet for picture in [*pictures, None] for packet in stream.encode(picture)]
        for number, packet in enumerate(packets):
            muxed(packet, number)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("blank", [(), (7,), (7, 20)], ids=["none", "one", "two"])
def test_packets_that_show_no_frame_shift_none(tmp_path, suffix, blank, counted):
    path = tmp_path / f"clip{suffix}"
    with_pictures_that_are_not_coded(path, blank)
    if counted:
        assert frame_count(path) == 32 - len(blank)
    shown = [i * 7 for i in range(32) if i not in blank]
    for index in (1, 9, 17, 20, 29):
        assert abs(int(read_frames(path, [index]).float().mean()) - shown[index]) <= 3
    (chosen,), total = read_chosen(path, lambda n: [n - 3])
    assert total == len(shown)
    assert abs(int(chosen.float().mean()) - shown[-3]) <= 3


@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_matroska_file_that_is_cut_off_is_no_shorter_video(tmp_path, share, lossless):
    path = tmp_path / "clip.mkv"
    write_video(path, torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 24, 36, 3), lossless=lossless)
    assert frame_count(path) == 60
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=rf"clip\.mkv: is cut off, \d+ of {len(data)} bytes are there"):
        frame_count(path)


def test_a_matroska_file_of_unknown_length_is_read(tmp_path):
    """As a recording writes it that cannot go back to its header."""
    path = tmp_path / "clip.mkv"
    write_video(path, torch.zeros(6, 24, 36, 3, dtype=torch.uint8))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x18\x53\x80\x67") + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    assert frame_count(path) == 6
