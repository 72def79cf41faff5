"""What a packet says, apart from how its container wraps it.

Joining two mp4 files by packet copy rewrites H.264: the parameter sets of the header are put in front of every key
frame. A digest of footage must not notice, so parameter sets are taken out of packets and of the header alike and are
digested beside the pictures. AV1 repeats its sequence header in its key frames; the file header's copy is then ignored.
"""

import msgspec

AVC_SETS = frozenset({7, 8, 13})
"""SPS, PPS and SPS extension. Source: ITU-T H.264, table 7-1."""
HEVC_SETS = frozenset({32, 33, 34})
"""VPS, SPS and PPS. Source: ITU-T H.265, table 7-1."""
# Access unit delimiters go too: some muxers add them and some remove them.
AVC_DROPPED = AVC_SETS | {9}
HEVC_DROPPED = HEVC_SETS | {35}
AV1_SEQUENCE_HEADER = 1
"""The type of an open bitstream unit (OBU). Source: AV1 bitstream specification, 6.2.2."""


class SplitPacket(msgspec.Struct, frozen=True):
    """One packet: `picture` is what is coded of the picture, as views of the packet; `parameter_sets` came with it."""

    picture: tuple[memoryview, ...]
    parameter_sets: tuple[bytes, ...] = ()


class Bitstream(msgspec.Struct, frozen=True):
    """How to read one track's packets, from its codec's name and its extradata.

    `nal_length_bytes` is 0 where packets are not made of length-prefixed NAL units; they are then taken whole.
    `header_sets` are the parameter sets of the container's header.

    Source: ISO/IEC 14496-15 (avcC, hvcC), ITU-T H.264 7.4.1, ITU-T H.265 7.4.2, AV1-ISOBMFF 2.3.
    """

    codec: str
    nal_length_bytes: int
    header_sets: tuple[bytes, ...]

    def split(self, packet: memoryview) -> SplitPacket:
        """Split a packet into its picture and its parameter sets. A unit that is cut short is taken as it is."""
        if not self.nal_length_bytes:
            return SplitPacket((packet,), _sequence_headers(packet) if self.codec == "av1" else ())
        dropped, sets = (AVC_DROPPED, AVC_SETS) if self.codec == "h264" else (HEVC_DROPPED, HEVC_SETS)
        picture: list[memoryview] = []
        parameter_sets: list[bytes] = []
        offset = 0
        while offset + self.nal_length_bytes <= len(packet):
            start = offset + self.nal_length_bytes
            offset = start + int.from_bytes(packet[offset:start], "big")
            unit = packet[start:offset]
            unit_type = _unit_type(self.codec, unit)
            if unit_type not in dropped:
                picture.append(unit)
            elif unit_type in sets:
                parameter_sets.append(bytes(unit))
        return SplitPacket(tuple(picture), tuple(parameter_sets))

    def active_sets(self, packet_sets: frozenset[bytes]) -> tuple[bytes, ...]:
        """Return the parameter sets that packets with the sets `packet_sets` are decoded by, sorted.

        A kind of set that the packets carry themselves overrides the header's.
        """
        kinds = {self._kind(parameter_set) for parameter_set in packet_sets}
        from_header = {parameter_set for parameter_set in self.header_sets if self._kind(parameter_set) not in kinds}
        return tuple(sorted(packet_sets | from_header))

    def _kind(self, parameter_set: bytes) -> int:
        return _unit_type(self.codec, parameter_set) if self.nal_length_bytes else 0


def read_header(codec: str, extradata: bytes) -> Bitstream:
    """Read a track's extradata. Extradata of an unknown form is taken whole, as one parameter set."""
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        sps, offset = _read_sets(extradata, 6, extradata[5] & 31)
        pps_count = extradata[offset] if offset < len(extradata) else 0
        pps, _ = _read_sets(extradata, offset + 1, pps_count)
        return Bitstream(codec, (extradata[4] & 3) + 1, (*sps, *pps))
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        units: list[bytes] = []
        offset = 23
        for _ in range(extradata[22]):
            count = int.from_bytes(extradata[offset + 1 : offset + 3], "big")
            same_type, offset = _read_sets(extradata, offset + 3, count)
            units += same_type
        # The header may also hold messages (SEI), x265's settings among them, which decide no pixel.
        return Bitstream(codec, (extradata[21] & 3) + 1, tuple(u for u in units if _unit_type(codec, u) in HEVC_SETS))
    if codec == "av1" and extradata[:1] == b"\x81":
        # The four bytes before the sequence header repeat fields of it.
        return Bitstream(codec, 0, _sequence_headers(memoryview(extradata)[4:]))
    return Bitstream(codec, 0, (extradata,) if extradata else ())


def _unit_type(codec: str, unit: bytes | memoryview) -> int:
    if not unit:
        return -1
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _read_sets(data: bytes, offset: int, count: int) -> tuple[list[bytes], int]:
    """Read `count` units, each behind its size in two bytes; return them and the offset of what follows."""
    units: list[bytes] = []
    for _ in range(count):
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        units.append(data[offset + 2 : end])
        offset = end
    return units, offset


def _sequence_headers(data: memoryview) -> tuple[bytes, ...]:
    """Return the first sequence header among a temporal unit's OBUs, as a tuple of none or one."""
    offset = 0
    while offset < len(data):
        header = data[offset]
        start = offset + 1 + (header >> 2 & 1)  # an extension byte may follow
        # Without a size of its own, the last OBU reaches to the end.
        size, start = _leb128(data, start) if header >> 1 & 1 else (len(data) - start, start)
        if header >> 3 & 15 == AV1_SEQUENCE_HEADER:
            return (bytes(data[offset : start + size]),)
        offset = start + size
    return ()


def _leb128(data: memoryview, offset: int) -> tuple[int, int]:
    """Read an integer of seven bits a byte, the least first; return it and the offset of what follows."""
    value = shift = 0
    while offset < len(data):
        byte = data[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if not byte & 128:
            break
    return value, offset
