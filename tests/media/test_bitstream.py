"""What is taken out of packets, from streams written down byte by byte."""

from annotator.media.bitstream import Bitstream, read_header

SPS, PPS, OTHER_PPS, IDR, SEI, AUD = b"\x67\x01", b"\x68\x02", b"\x68\x03", b"\x65pic", b"\x06sei", b"\x09\xf0"
AVCC = b"\x01\x64\x00\x0a\xff\xe1" + b"\x00\x02" + SPS + b"\x01" + b"\x00\x02" + PPS
VPS, HEVC_SPS, HEVC_PPS, HEVC_IDR = b"\x40\x01v", b"\x42\x01s", b"\x44\x01p", b"\x28\x01pic"
SEQUENCE = b"\x0a\x03abc"


def units(*given: bytes, length_bytes: int = 4) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(length_bytes, "big") + unit for unit in given))


def test_parameter_sets_and_delimiters_leave_an_h264_packet_and_messages_stay() -> None:
    stream = read_header("h264", AVCC)
    assert stream == Bitstream("h264", 4, (SPS, PPS))
    packet = stream.split(units(AUD, SPS, PPS, SEI, IDR))
    assert [bytes(part) for part in packet.picture] == [SEI, IDR]
    assert packet.parameter_sets == (SPS, PPS)


def test_the_width_of_length_prefixes_does_not_show() -> None:
    narrow = read_header("h264", AVCC[:4] + b"\xfd" + AVCC[5:])
    assert narrow.nal_length_bytes == 2
    packet = narrow.split(units(SEI, IDR, length_bytes=2))
    assert [bytes(part) for part in packet.picture] == [SEI, IDR]


def test_a_kind_of_set_that_packets_bring_overrides_the_headers() -> None:
    stream = read_header("h264", AVCC)
    assert stream.active_sets(frozenset()) == (SPS, PPS)
    assert stream.active_sets(frozenset({OTHER_PPS})) == (SPS, OTHER_PPS)
    assert stream.active_sets(frozenset({SPS, PPS})) == (SPS, PPS)


def test_an_hevc_header_gives_its_parameter_sets_and_not_its_messages() -> None:
    arrays = ((32, VPS), (33, HEVC_SPS), (34, HEVC_PPS), (39, b"\x4e\x01x265 - build 1"))
    header = b"\x01" + bytes(20) + b"\x0f" + bytes([len(arrays)])
    header += b"".join(bytes([kind]) + b"\x00\x01" + len(unit).to_bytes(2, "big") + unit for kind, unit in arrays)
    stream = read_header("hevc", header)
    assert stream == Bitstream("hevc", 4, (VPS, HEVC_SPS, HEVC_PPS))
    packet = stream.split(units(VPS, HEVC_SPS, HEVC_PPS, HEVC_IDR))
    assert [bytes(part) for part in packet.picture] == [HEVC_IDR]
    assert packet.parameter_sets == (VPS, HEVC_SPS, HEVC_PPS)


def test_the_av1_header_counts_only_where_packets_bring_no_sequence_header() -> None:
    stream = read_header("av1", b"\x81\x04\x0c\x00" + SEQUENCE)
    assert stream == Bitstream("av1", 0, (SEQUENCE,))
    temporal_delimiter, frame = b"\x12\x00", b"\x32\x02xy"
    with_own = stream.split(memoryview(temporal_delimiter + b"\x0a\x03xyz" + frame))
    assert with_own.parameter_sets == (b"\x0a\x03xyz",)
    assert stream.active_sets(frozenset(with_own.parameter_sets)) == (b"\x0a\x03xyz",)
    assert stream.split(memoryview(frame)).parameter_sets == ()
    assert stream.active_sets(frozenset()) == (SEQUENCE,)


def test_packets_of_unknown_streams_are_taken_whole() -> None:
    stream = read_header("vp9", b"")
    assert [bytes(part) for part in stream.split(memoryview(b"anything")).picture] == [b"anything"]
    assert read_header("h264", b"\x00\x00\x00\x01" + SPS).nal_length_bytes == 0


def test_cut_or_empty_packets_are_no_trouble() -> None:
    stream = read_header("h264", AVCC)
    assert [bytes(part) for part in stream.split(units(IDR)[:-1]).picture] == [IDR[:-1]]
    assert stream.split(memoryview(b"\x00")).picture == ()
    assert read_header("av1", b"\x81\x04\x0c\x00").header_sets == ()
    assert read_header("av1", b"\x81\x04\x0c\x00\x0a\xff").split(memoryview(b"\x0a\xff")).parameter_sets == (
        b"\x0a\xff",
    )
