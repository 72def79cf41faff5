"""What a packet says, apart from how its container wraps it.

Joining two mp4 files by packet copy rewrites H.264: the parameter sets of the header are put in front of every key
frame. A digest of footage must not notice, so parameter sets are taken out of the packets and of the header alike, and
stand beside the pictures. AV1 repeats its sequence header in its key frames, and the file header's copy is never used.
"""

from collections.abc import Iterator

import msgspec

AVC_SETS = frozenset({7, 8, 13})  # SPS, PPS, SPS extension
AVC_DROPPED = AVC_SETS | {9}  # and access unit delimiters, which some muxers add or remove
HEVC_SETS = frozenset({32, 33, 34})  # VPS, SPS, PPS
HEVC_DROPPED = HEVC_SETS | {35}
AV1_SEQUENCE_HEADER = 1


class Sifted(msgspec.Struct, frozen=True):
    """One packet: `parts` carry the picture, `sets` are the parameter sets that came with it."""

    parts: tuple[memoryview, ...]
    sets: tuple[bytes, ...] = ()


class Bitstream(msgspec.Struct, frozen=True):
    """How to read one track's packets, from its codec's name and its extradata.

    `nal_length_bytes` is 0 where packets are not made of length-prefixed NAL units; they are then taken whole.
    `header_sets` are the parameter sets that stand in the container's header.

    Source: ISO/IEC 14496-15 (avcC, hvcC), ITU-T H.264 7.4.1, ITU-T H.265 7.4.2, AV1-ISOBMFF 2.3.
    """

    codec: str
    nal_length_bytes: int
    header_sets: tuple[bytes, ...]

    def sift(self, packet: memoryview) -> Sifted:
        """Part a packet into its picture and its parameter sets."""
        if not self.nal_length_bytes:
            return Sifted((packet,), _sequence_header(packet) if self.codec == "av1" else ())
        units = tuple(_units(packet, self.nal_length_bytes))
        dropped = AVC_DROPPED if self.codec == "h264" else HEVC_DROPPED
        return Sifted(
            tuple(unit for unit in units if _unit_type(self.codec, unit) not in dropped),
            tuple(bytes(unit) for unit in units if self._is_set(unit)),
        )

    def sets_in_force(self, own: frozenset[bytes]) -> tuple[bytes, ...]:
        """The parameter sets that packets with the sets `own` are decoded by, sorted.

        A kind of set that the packets carry themselves overrides the header's.
        """
        kinds = {self._kind(one) for one in own}
        return tuple(sorted(own | {one for one in self.header_sets if self._kind(one) not in kinds}))

    def _is_set(self, unit: memoryview) -> bool:
        return _unit_type(self.codec, unit) in (AVC_SETS if self.codec == "h264" else HEVC_SETS)

    def _kind(self, one: bytes) -> int:
        return _unit_type(self.codec, memoryview(one)) if self.nal_length_bytes else 0


def read_header(codec: str, extradata: bytes) -> Bitstream:
    """Read a track's extradata. What is not understood takes part as it stands."""
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return Bitstream(codec, (extradata[4] & 3) + 1, tuple(_avc_sets(extradata)))
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        sets = (one for one in _hevc_sets(extradata) if _unit_type(codec, memoryview(one)) in HEVC_SETS)
        return Bitstream(codec, (extradata[21] & 3) + 1, tuple(sets))
    if codec == "av1" and extradata[:1] == b"\x81":
        # The four bytes before the sequence header repeat fields of it.
        return Bitstream(codec, 0, _sequence_header(memoryview(extradata)[4:]))
    return Bitstream(codec, 0, (extradata,) if extradata else ())


def _unit_type(codec: str, unit: memoryview) -> int:
    if not unit:
        return -1
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _units(packet: memoryview, length_bytes: int) -> Iterator[memoryview]:
    offset = 0
    while offset + length_bytes <= len(packet):
        start = offset + length_bytes
        offset = start + int.from_bytes(packet[offset:start], "big")
        yield packet[start:offset]


def _avc_sets(avcc: bytes) -> Iterator[bytes]:
    offset, count = 6, avcc[5] & 31
    for _ in range(2):
        for _ in range(count):
            one, offset = _sized(avcc, offset)
            yield one
        count = avcc[offset] if offset < len(avcc) else 0
        offset += 1


def _hevc_sets(hvcc: bytes) -> Iterator[bytes]:
    offset = 23
    for _ in range(hvcc[22]):
        count = int.from_bytes(hvcc[offset + 1 : offset + 3], "big")
        offset += 3
        for _ in range(count):
            one, offset = _sized(hvcc, offset)
            yield one


def _sized(data: bytes, offset: int) -> tuple[bytes, int]:
    end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
    return data[offset + 2 : end], end


def _sequence_header(data: memoryview) -> tuple[bytes, ...]:
    """The sequence header among a temporal unit's open bitstream units, as a tuple of none or one."""
    offset = 0
    while offset < len(data):
        header = data[offset]
        start = offset + 1 + (header >> 2 & 1)
        size, start = _leb128(data, start) if header >> 1 & 1 else (len(data) - start, start)
        if header >> 3 & 15 == AV1_SEQUENCE_HEADER:
            return (bytes(data[offset : start + size]),)
        offset = start + size
    return ()


def _leb128(data: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data):
        byte = data[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if not byte & 128:
            break
    return value, offset
