"""Digests of footage: what moves them, and what must not."""

import struct
from pathlib import Path

import av
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.demux import file_digests, images_digest, open_video, scan
from annotator_store.digests import Digest, digest_parts
from tests.media.films import CODECS, clip, film, join, packet_places, rewrap, timestamps


def digest_of(clip: Clip) -> Digest:
    (digest,) = file_digests(clip.path, [clip])
    if isinstance(digest, FootageError):
        raise digest
    return digest


def range_digest(path: Path, from_timestamp: float, to_timestamp: float, fps: float) -> Digest:
    times = timestamps(round((to_timestamp - from_timestamp) * fps), fps)
    return digest_of(
        Clip(
            path=path,
            from_timestamp=from_timestamp,
            to_timestamp=to_timestamp,
            frame_timestamps=times,
            fps=fps,
            camera="observation.images.top",
        )
    )


@pytest.mark.parametrize("codec", [*CODECS, "mpeg4", "libvpx-vp9"])
@pytest.mark.parametrize("gop", [2, 250])
def test_joining_and_moving_episodes_by_packet_copy_leaves_their_digests(tmp_path: Path, codec: str, gop: int) -> None:
    a = film(tmp_path / "a.mp4", range(20), codec=codec, gop=gop)
    b = film(tmp_path / "b.mp4", range(50, 63), codec=codec, gop=gop)
    alone = [digest_of(clip(a, 0, 20)), digest_of(clip(b, 0, 13))]
    assert alone[0] != alone[1]
    appended = join([a, b], tmp_path / "ab.mp4")
    assert [digest_of(clip(appended, 0, 20)), digest_of(clip(appended, 20, 13))] == alone
    again = join([appended, b], tmp_path / "abb.mp4")  # what has been joined once is joined again
    assert [digest_of(clip(again, 0, 20)), digest_of(clip(again, 33, 13))] == alone
    swapped = join([b, a], tmp_path / "ba.mp4")
    assert [digest_of(clip(swapped, 13, 20)), digest_of(clip(swapped, 0, 13))] == alone


def test_a_container_that_rounds_times_leaves_the_digest(tmp_path: Path) -> None:
    fps = 30000 / 1001
    path = film(tmp_path / "a.mp4", range(90), fps=fps, gop=12, options={"bf": "2"})
    coarse = rewrap(path, tmp_path / "b.mp4", {"video_track_timescale": "1000"})
    assert digest_of(clip(coarse, 0, 90, fps)) == digest_of(clip(path, 0, 90, fps))


def test_one_pass_over_a_file_gives_what_each_clip_gives_alone(cr5_clips: list[Clip]) -> None:
    paths = sorted({clip.path for clip in cr5_clips})
    at_once = [
        digest for path in paths for digest in file_digests(path, [clip for clip in cr5_clips if clip.path == path])
    ]
    assert at_once == [digest_of(clip) for clip in cr5_clips]
    assert len(set(at_once)) == 12


def test_a_digest_is_derived_as_documented(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(12), codec="mpeg4", gop=6, options={"bf": "2"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        header = stream.codec_context.extradata or b""
        packets = [(packet.pts or 0, bytes(packet)) for packet in container.demux(stream) if packet.size]
    assert packets != sorted(packets), "frames must be decoded in another order than shown for this to mean anything"
    expected = digest_parts(
        "footage.v1",
        [
            b"mpeg4",
            struct.pack("<d", 30.0),
            digest_parts("parameters.v1", [header]).encode(),
            b"".join(slot.to_bytes(8, "little") for slot in range(12)),
            b"".join(bytes.fromhex(digest_parts("packet.v1", [data])) for _, data in sorted(packets)),
            b"",
        ],
    )
    assert digest_of(clip(path, 0, 12)) == expected


def test_a_range_is_read_without_the_rest_of_the_file(tmp_path: Path) -> None:
    with open_video(film(tmp_path / "a.mp4", range(300), gop=10)) as video:
        packets = scan(video, 5.0, 6.0)
    assert 30 <= len(packets.pts) <= 50
    assert packets.seconds().min() == 5.0


def test_digests_do_not_change_between_releases(cr5_clips: list[Clip]) -> None:
    first, last = cr5_clips[0], cr5_clips[-1]
    assert digest_of(first) == "119f93cc6adb42c86464ff4e3ef65d00"
    assert digest_of(last) == "aebbde21d7aab9620844ac9459ce73cb"


@pytest.mark.parametrize("codec", CODECS)
def test_one_changed_byte_of_a_picture_changes_its_episode_alone(tmp_path: Path, codec: str) -> None:
    path = film(tmp_path / "a.mp4", range(30), codec=codec)
    clips = [clip(path, 0, 10), clip(path, 10, 10), clip(path, 20, 10)]
    before = file_digests(path, clips)
    offset, size = packet_places(path)[13]
    data = bytearray(path.read_bytes())
    data[offset + size - 1] ^= 1
    path.write_bytes(data)
    assert [old == new for old, new in zip(before, file_digests(path, clips), strict=True)] == [True, False, True]


def test_parameter_sets_in_the_header_take_part_where_packets_bring_none(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(10))
    before = digest_of(clip(path, 0, 10))
    data = bytearray(path.read_bytes())
    sets = data.index(b"avcC") + 4
    data[sets + 1] ^= 1  # the profile, said again beside the parameter sets
    path.write_bytes(data)
    assert digest_of(clip(path, 0, 10)) == before
    data[sets + 8 + 12] ^= 1  # inside the sequence parameter set
    path.write_bytes(data)
    assert digest_of(clip(path, 0, 10)) != before


def test_frame_times_and_frame_rate_take_part(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(20), fps=30)
    whole = range_digest(path, 0, 20 / 30, 30)
    assert range_digest(path, 0, 20 / 30, 60) != whole
    assert range_digest(path, -1 / 30, 20 / 30, 30) != whole
    assert range_digest(path, 0, 19 / 30, 30) != whole


def test_an_episode_cut_out_of_a_group_of_pictures_answers_for_what_it_is_decoded_from(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(30), gop=250, options={"bf": "0"})
    tail = clip(path, 20, 10)
    before = digest_of(tail)
    offset, size = packet_places(path)[4]
    data = bytearray(path.read_bytes())
    data[offset + size - 1] ^= 1
    path.write_bytes(data)
    assert digest_of(tail) != before


def test_an_episode_that_a_file_does_not_hold_fails_alone(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(30))
    inside, beyond = clip(path, 0, 30), clip(path, 30, 30)
    digest, error = file_digests(path, [inside, beyond])
    assert digest == digest_of(inside)
    assert isinstance(error, FootageError)
    assert str(path) in error.where and error.hint


@pytest.mark.parametrize(("packet", "share"), [(30, 0), (30, 0.5), (39, 0.5)])
def test_a_file_cut_short_fails_the_episodes_it_no_longer_holds(tmp_path: Path, packet: int, share: float) -> None:
    path = rewrap(film(tmp_path / "a.mp4", range(60)), tmp_path / "b.mp4", {"movflags": "faststart"})
    clips = [clip(path, 0, 20), clip(path, 20, 20), clip(path, 40, 20)]
    before = file_digests(path, clips)
    offset, size = packet_places(path)[packet]
    path.write_bytes(path.read_bytes()[: offset + int(size * share)])
    first, second, third = file_digests(path, clips)
    assert first == before[0]
    assert isinstance(second, FootageError) and isinstance(third, FootageError)


def test_a_file_that_cannot_be_opened_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="missing"):
        file_digests(tmp_path / "none.mp4", [])
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(FootageError, match="cannot be opened"):
        file_digests(tmp_path / "empty.mp4", [])


def images(*encoded: bytes | None, root: Path, paths: tuple[str | None, ...] | None = None) -> ImageClip:
    rows = [{"bytes": data, "path": path} for data, path in zip(encoded, paths or (None,) * len(encoded), strict=True)]
    array = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return ImageClip(images=array, root=root, frame_timestamps=timestamps(len(rows)), fps=30, camera="front")


def test_stored_images_are_digested_by_their_bytes_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"bb")
    digest = images_digest(images(b"a", b"bb", root=tmp_path))
    assert images_digest(images(b"a", None, root=tmp_path, paths=(None, "b.png"))) == digest
    assert images_digest(images(b"a", b"bb", root=tmp_path, paths=("x", "y"))) == digest
    long = images(b"z", b"a", b"bb", root=tmp_path)
    moved = msgspec.structs.replace(long, images=long.images.slice(1), frame_timestamps=timestamps(2))
    assert images_digest(moved) == digest


def test_order_bounds_and_times_of_stored_images_take_part(tmp_path: Path) -> None:
    first = images(b"a", b"bb", root=tmp_path)
    later = msgspec.structs.replace(first, frame_timestamps=first.frame_timestamps + np.float32(0.5))
    digests = [
        images_digest(clip)
        for clip in (first, later, images(b"bb", b"a", root=tmp_path), images(b"ab", b"b", root=tmp_path))
    ]
    assert len(set(digests)) == 4
