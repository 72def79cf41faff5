"""Exact frames, from real files of every kind, and the errors of broken ones."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.contact_sheet import encode_jpeg
from annotator.media.decode import DecodeCounter, FrameRequest, frame_size, read_frames
from tests.media.films import clip, draw_number, film, join, packet_places, read_number, read_times, rewrap, timestamps

OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}
KINDS = [
    pytest.param("libx264", 2, {}, id="h264-gop2"),
    pytest.param("libx264", 250, {"bf": "3"}, id="h264-gop250-b-frames"),
    pytest.param("libx264", 12, OPEN_GOP, id="h264-open-gop"),
    pytest.param("libx265", 30, {}, id="hevc-gop30"),
    pytest.param("mpeg4", 10, {"bf": "2"}, id="mpeg4-b-frames"),
    pytest.param("libsvtav1", 2, {}, id="av1-gop2"),
    pytest.param("libsvtav1", 250, {}, id="av1-gop250"),
]
RATES = [10, 30, Fraction(30000, 1001)]


def numbers_at(clip: Clip, positions: "list[int]") -> list[int]:
    times = [float(clip.frame_timestamps[position]) for position in positions]
    return [read_number(pixels) for _, pixels in read_times(clip, times)]


@pytest.mark.parametrize("fps", RATES, ids=["10fps", "30fps", "29.97fps"])
@pytest.mark.parametrize(("codec", "gop", "options"), KINDS)
def test_every_frame_of_every_episode_in_a_joined_file_is_the_one_asked_for(
    tmp_path: Path, codec: str, gop: int, options: dict[str, str], fps: Fraction
) -> None:
    first = film(tmp_path / "a.mp4", range(0, 41), codec=codec, gop=gop, fps=fps, options=options)
    second = film(tmp_path / "b.mp4", range(100, 137), codec=codec, gop=gop, fps=fps, options=options)
    joined = join([first, second, first], tmp_path / "joined.mp4")
    for start, count, base in [(0, 41, 0), (41, 37, 100), (78, 41, 0)]:
        episode = clip(joined, start, count, float(fps))
        assert numbers_at(episode, list(range(count))) == list(range(base, base + count))
        assert numbers_at(episode, [0]) == [base]
        assert numbers_at(episode, [count - 1]) == [base + count - 1]
        assert numbers_at(episode, list(range(0, count, 7))) == list(range(base, base + count, 7))


@pytest.mark.parametrize(("codec", "gop", "options"), KINDS)
def test_sparse_frames_are_the_same_pixels_as_a_plain_decode_of_the_whole_file(
    tmp_path: Path, codec: str, gop: int, options: dict[str, str]
) -> None:
    path = film(tmp_path / "a.mp4", range(60), codec=codec, gop=gop, options=options)
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    episode = clip(path, 0, 60)
    wanted = [3, 4, 17, 31, 58]
    read = read_times(episode, [float(episode.frame_timestamps[position]) for position in wanted])
    for position, (_, pixels) in zip(wanted, read, strict=True):
        assert np.abs(pixels.astype(int) - plain[position].astype(int)).max() <= 2  # two ways of scaling chroma


@pytest.mark.parametrize(("codec", "gop", "options"), KINDS)
def test_each_frame_can_be_asked_for_alone(tmp_path: Path, codec: str, gop: int, options: dict[str, str]) -> None:
    episode = clip(film(tmp_path / "a.mp4", range(25), codec=codec, gop=min(gop, 10), options=options), 0, 25)
    for position in range(25):
        assert numbers_at(episode, [position]) == [position]


@settings(max_examples=30, deadline=None)
@given(positions=st.sets(st.integers(0, 89), min_size=1, max_size=8))
def test_any_choice_of_frames_comes_back_in_order_each_once(
    positions: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    if not path.exists():
        film(path, range(200, 290), gop=12, options=OPEN_GOP)
    episode = clip(path, 0, 90)
    shuffled = sorted(positions, key=lambda position: position * 37 % 91)
    assert numbers_at(episode, shuffled + shuffled[:1]) == [200 + position for position in sorted(positions)]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_time_base_that_rounds_every_time_still_gives_the_right_frames(tmp_path: Path, suffix: str) -> None:
    fps = Fraction(30000, 1001)
    source = film(tmp_path / "a.mp4", range(120), gop=12, fps=fps, options={"bf": "2"})
    # Matroska counts milliseconds; so does this mp4 track, where 29.97 Hz falls beside every tick.
    rounded = rewrap(source, tmp_path / f"b{suffix}", {"video_track_timescale": "1000"} if suffix == ".mp4" else None)
    assert numbers_at(clip(rounded, 30, 60, float(fps)), [0, 1, 29, 58, 59]) == [30, 31, 59, 88, 89]


def test_a_file_that_does_not_start_at_zero_is_read_by_its_own_clock(tmp_path: Path) -> None:
    path = film(tmp_path / "late.mp4", range(30), first_pts=45, gop=6, options={"bf": "2"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time, "the file must start late for this test to mean anything"
    assert numbers_at(clip(path, 45, 30), [0, 1, 29]) == [0, 1, 29]
    with pytest.raises(FootageError, match="no frame is shown"):
        numbers_at(clip(path, 0, 30), [0])


def test_frames_cut_away_by_an_edit_list_are_never_shown(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(40), gop=250, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 8
    assert int.from_bytes(data[entry : entry + 4], "big") == 1
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    assert base is not None
    start = int(data[entry + 8 : entry + 12].hex(), 16) + round(10 / 30 / base)
    data[entry + 4 : entry + 12] = (800).to_bytes(4, "big") + start.to_bytes(4, "big")  # ten go from either end, of 40
    path.write_bytes(data)
    assert numbers_at(clip(path, 0, 30), [0, 1, 23]) == [10, 11, 33]
    with pytest.raises(FootageError, match="no frame is shown"):
        numbers_at(clip(path, 0, 30), [24])


def test_half_a_frame_period_off_is_the_frame_and_more_is_an_error(tmp_path: Path) -> None:
    episode = clip(film(tmp_path / "a.mp4", range(30)), 0, 30)
    assert [read_number(pixels) for _, pixels in read_times(episode, [10.49 / 30, 10.51 / 30])] == [10, 11]
    assert read_number(next(read_times(episode, [29.49 / 30]))[1]) == 29
    with pytest.raises(FootageError) as caught:
        list(read_times(episode, [29.51 / 30]))
    for message in (str(episode.path), "observation.images.top", "0.984 s", "0.017 s away", "hint:"):
        assert message in str(caught.value)


def test_an_episode_never_gives_a_neighbours_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(60))
    with pytest.raises(FootageError, match="no frame is shown"):
        list(read_times(clip(path, 20, 20), [20 / 30]))
    with pytest.raises(FootageError, match="no frame is shown"):
        list(read_times(clip(path, 20, 20), [-1 / 30]))


def test_only_the_groups_of_pictures_that_hold_a_wanted_frame_are_decoded(tmp_path: Path) -> None:
    episode = clip(film(tmp_path / "a.mp4", range(300), gop=2, options={"bf": "0"}), 0, 300)
    counter = DecodeCounter()
    read = list(read_times(episode, [float(episode.frame_timestamps[k]) for k in range(0, 300, 15)], counter=counter))
    assert len(read) == 20
    assert counter.frames == 30  # ten key frames alone, ten second frames after their key frame


def test_frames_that_no_other_needs_are_left_out(tmp_path: Path) -> None:
    episode = clip(film(tmp_path / "a.mp4", range(90), gop=250, options={"bf": "3"}), 0, 90)
    counter = DecodeCounter()
    assert len(list(read_times(episode, [0.0, float(episode.frame_timestamps[89])], counter=counter))) == 2
    assert counter.frames < 80


def test_one_pass_gives_one_frame_at_several_sizes(tmp_path: Path) -> None:
    episode = clip(film(tmp_path / "a.mp4", range(30)), 0, 30)
    counter = DecodeCounter()
    requests = [FrameRequest(0.0, 64), FrameRequest(0.0, 0), FrameRequest(0.0, 33), FrameRequest(0.2, 64)]
    sizes = {
        request: (pixels.shape, read_number(pixels)) for request, pixels in read_frames(episode, requests, counter)
    }
    assert sizes == {
        FrameRequest(0.0, 0): ((96, 128, 3), 0),
        FrameRequest(0.0, 33): ((25, 33, 3), 0),
        FrameRequest(0.0, 64): ((48, 64, 3), 0),
        FrameRequest(0.2, 64): ((48, 64, 3), 6),
    }
    assert counter.frames == 2
    assert frame_size(episode) == (128, 96)


@pytest.mark.parametrize("options", [{"color_range": "tv"}, {"color_range": "pc"}])
def test_the_callers_arrays_are_their_own_and_rgb(tmp_path: Path, options: dict[str, str]) -> None:
    episode = clip(film(tmp_path / "a.mp4", [0xFFFF, 0], options=options), 0, 2)
    (_, white), (_, black) = list(read_times(episode, [0.0, float(episode.frame_timestamps[1])]))
    white[:] = 7
    assert black.dtype == np.uint8 and black.flags.writeable and black.max() < 20


def broken(path: Path, how: str) -> Clip:
    good = film(path.with_name("good.mp4"), range(60), gop=2)
    if how == "missing":
        return clip(path, 0, 60)
    if how == "beyond the end":
        return clip(good, 60, 60)
    if how == "no video track":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 48000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
        return clip(path, 0, 60)
    data = good.read_bytes()
    changed = {
        "empty": b"",
        "not a video": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "truncated": data[: len(data) // 2],
        "truncated in its index": data[: len(data) - 400],
        "unknown codec": data.replace(b"avc1", b"zzzz"),
    }[how]
    path.write_bytes(changed)
    return clip(path, 0, 60)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "missing"),
        ("empty", "cannot be opened"),
        ("not a video", "cannot be opened"),
        ("truncated", "cannot be opened"),
        ("truncated in its index", "cannot be read"),
        ("no video track", "no video track"),
        ("unknown codec", "codec"),
        ("beyond the end", "no frame"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_path_and_a_hint(tmp_path: Path, how: str, message: str) -> None:
    episode = broken(tmp_path / "bad.mp4", how)
    with pytest.raises(FootageError, match=message) as caught:
        list(read_times(episode, [0.0]))
    assert str(episode.path) in str(caught.value)
    assert caught.value.hint


def test_a_file_cut_short_gives_the_frames_it_has_and_refuses_the_rest(tmp_path: Path) -> None:
    path = rewrap(film(tmp_path / "a.mp4", range(60)), tmp_path / "b.mp4", {"movflags": "faststart"})
    offset, size = packet_places(path)[30]
    path.write_bytes(path.read_bytes()[: offset + size // 2])
    episode = clip(path, 0, 60)
    assert numbers_at(episode, [0, 29]) == [0, 29]
    for position in (30, 45):
        with pytest.raises(FootageError, match="no frame is shown"):
            numbers_at(episode, [position])


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_damaged_packets_fail_their_own_frames_and_no_others(tmp_path: Path, codec: str) -> None:
    path = film(tmp_path / "a.mp4", range(60), codec=codec)
    offset, size = packet_places(path)[30]
    data = bytearray(path.read_bytes())
    data[offset + 4 : offset + size] = bytes(byte ^ 0x5A for byte in data[offset + 4 : offset + size])
    path.write_bytes(data)
    episode = clip(path, 0, 60)
    assert numbers_at(episode, [0, 28, 29, 32, 33, 59]) == [0, 28, 29, 32, 33, 59]
    for position in (30, 31):
        with pytest.raises(FootageError, match="cannot be decoded") as caught:
            numbers_at(episode, [0, position])
        assert str(path) in str(caught.value) and "1.0" in caught.value.where


def test_a_picture_patched_up_by_the_decoder_is_not_passed_on(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(30), gop=10, block=(60, 80), options={"bf": "0", "crf": "1"})
    offset, size = packet_places(path)[13]
    data = bytearray(path.read_bytes())
    data[offset + size // 2 : offset + size // 2 + 40] = bytes(byte ^ 0x5A for byte in range(40))
    path.write_bytes(data)
    episode = clip(path, 0, 30)
    assert numbers_at(episode, [0, 12, 20, 29]) == [0, 12, 20, 29]
    for position in (13, 14, 19):
        with pytest.raises(FootageError, match="damaged"):
            numbers_at(episode, [position])


def stored(images: "list[dict[str, bytes | str | None]]", root: Path) -> ImageClip:
    array = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return ImageClip(images=array, root=root, frame_timestamps=timestamps(len(images)), fps=30, camera="front")


def test_stored_images_are_read_from_the_shard_or_from_their_path(tmp_path: Path) -> None:
    jpegs = [encode_jpeg(draw_number(number), 90) for number in range(5)]
    (tmp_path / "3.jpg").write_bytes(jpegs[3])
    images: list[dict[str, bytes | str | None]] = [{"bytes": jpeg, "path": None} for jpeg in jpegs]
    images[3] = {"bytes": None, "path": "3.jpg"}
    episode, counter = stored(images, tmp_path), DecodeCounter()
    read = list(read_times(episode, [0.0, 0.1, float(episode.frame_timestamps[4])], 64, counter))
    assert [read_number(pixels) for _, pixels in read] == [0, 3, 4]
    assert read[0][1].shape == (48, 64, 3)
    assert counter.frames == 3
    assert frame_size(episode) == (128, 96)
    with pytest.raises(FootageError, match="no frame is shown"):
        list(read_times(episode, [5 / 30]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"bytes": None, "path": None}, "has no image"),
        ({"bytes": None, "path": "gone.png"}, "cannot be read"),
        ({"bytes": b"nonsense", "path": None}, "cannot be decoded"),
        ({"bytes": encode_jpeg(draw_number(1), 90)[:700], "path": None}, "cannot be decoded"),
    ],
)
def test_a_bad_stored_image_is_named_with_its_frame(
    tmp_path: Path, image: "dict[str, bytes | str | None]", message: str
) -> None:
    good: dict[str, bytes | str | None] = {"bytes": encode_jpeg(draw_number(0), 90), "path": None}
    episode = stored([good, image], tmp_path)
    with pytest.raises(FootageError, match=message) as caught:
        list(read_times(episode, [float(episode.frame_timestamps[1])]))
    assert "front, frame 1" in caught.value.where


def test_real_recordings_give_their_first_and_last_frames(cr5_clips: list[Clip]) -> None:
    for episode in cr5_clips:
        first, last = float(episode.frame_timestamps[0]), float(episode.frame_timestamps[-1])
        read = list(read_times(episode, [first, last]))
        assert [time for time, _ in read] == [first, last]
        assert all(pixels.shape == (480, 640, 3) and pixels.std() > 20 for _, pixels in read)
