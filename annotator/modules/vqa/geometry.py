"""What a `vqa` answer becomes: numbers in pixels of the stored frame, content as canonical JSON.

A model points in its own units: thousandths of the image's width and height, or pixels of it. Rows hold whole pixels.
A box is the edges it lies between, each moved to the nearest line between pixels: 0 <= x1 < x2 <= width, likewise for
y, so a box over the whole frame is [0, 0, width, height]. A point is the pixel it falls into, 0 <= x < width and
0 <= y < height, so `image[y, x]` is there. A change here is a change of the module's VERSION: it costs no call.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, assert_never

import msgspec

from annotator.prompting.answers import AttributeAnswer, BboxAnswer, CountAnswer, KeypointAnswer, SpatialAnswer
from annotator.prompting.normalize import folded, tidy_label

VqaAnswer = BboxAnswer | KeypointAnswer | CountAnswer | AttributeAnswer | SpatialAnswer


_NO_NOTE = frozenset({"", "none", "nothing", "n/a"})
"""What a note says that says nothing."""


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what an assistant row holds. Source: the five shapes that LeRobot's readers know."""


class Box(Content, frozen=True, kw_only=True):
    """One thing and the edges it lies between, pixels: left, top, right, bottom."""

    label: str
    bbox: tuple[int, int, int, int]
    bbox_format: Literal["xyxy"]


class BboxContent(Content, frozen=True, kw_only=True):
    """What a `bbox` question is answered with."""

    detections: tuple[Box, ...]


class KeypointContent(Content, frozen=True, kw_only=True):
    """What a `keypoint` question is answered with: the pixel, x before y."""

    label: str
    point: tuple[int, int]
    point_format: Literal["xy"]


class CountContent(Content, frozen=True, kw_only=True):
    """What a `count` question is answered with; a note that says nothing is left out."""

    label: str
    count: int
    note: str | msgspec.UnsetType = msgspec.UNSET


class AttributeContent(Content, frozen=True, kw_only=True):
    """What an `attribute` question is answered with."""

    label: str
    attribute: str
    value: str


class SpatialContent(Content, frozen=True, kw_only=True):
    """What a `spatial` question is answered with."""

    subject: str
    relation: str
    object: str


AnyContent = BboxContent | KeypointContent | CountContent | AttributeContent | SpatialContent

_encoder = msgspec.json.Encoder(order="sorted")


class CoordinateFrame(msgspec.Struct, frozen=True, kw_only=True):
    """How a model points into one stored frame: the frame's size, and the units it was asked to use."""

    width_px: int
    height_px: int
    units: Literal["relative_1000", "pixels"]

    @property
    def most(self) -> tuple[int, int]:
        """The largest x and y, in the units of the model."""
        return (1000, 1000) if self.units == "relative_1000" else (self.width_px, self.height_px)

    @property
    def prompt_text(self) -> str:
        """How coordinates are to be given, in the words of the prompt."""
        if self.units == "relative_1000":
            right, bottom = "1000 at the right edge", "1000 at the bottom edge"
            scale = "Coordinates are whole numbers from 0 to 1000, whatever the size of the image"
        else:
            right, bottom = f"{self.width_px} at the right edge", f"{self.height_px} at the bottom edge"
            scale = f"Coordinates are whole pixels of the image, {self.width_px} wide and {self.height_px} high"
        return f"{scale}: x is 0 at the left edge and {right}, y is 0 at the top edge and {bottom}."

    def outside(self, point: Sequence[float]) -> str:
        """Say which coordinate of a point, x before y, lies outside the frame; "" where none does."""
        for name, value, most in zip("xy", point, self.most, strict=True):
            if not 0 <= value <= most:
                return f"{name} is {value:g}, outside 0 to {most}"
        return ""

    def pixels(self, point: Sequence[float]) -> tuple[float, float]:
        """Return a point, x before y, in pixels, not rounded."""
        x, y = point
        if self.units == "pixels":
            return x, y
        return x * self.width_px / 1000, y * self.height_px / 1000

    def box_pixels(self, bbox: Sequence[float]) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in pixels, not rounded, whichever two opposite corners were given."""
        (x1, y1), (x2, y2) = self.pixels(bbox[:2]), self.pixels(bbox[2:])
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def flat(self, bbox: Sequence[float]) -> str:
        """Say which extent of a box is less than one pixel; "" where neither is."""
        left, top, right, bottom = self.box_pixels(bbox)
        for name, extent in (("width", right - left), ("height", bottom - top)):
            if extent < 1:
                return f"its {name} is less than one pixel; the corners are [left, top, right, bottom]"
        return ""

    def edges(self, bbox: Sequence[float]) -> tuple[int, int, int, int]:
        """Return the lines between pixels that are nearest to a box's left, top, right and bottom."""
        # Halves go up on both sides, so edges a pixel apart stay apart; rounding to even would join 1.5 and 2.5.
        left, top, right, bottom = (math.floor(edge + 0.5) for edge in self.box_pixels(bbox))
        return left, top, right, bottom


def misfit(answer: VqaAnswer, frame: CoordinateFrame) -> str:
    """Say what is wrong with an answer beyond its schema, in the words of the prompt; "" where nothing is."""
    for path, text in _texts(answer):
        if not tidy_label(text):
            return f"{path} is blank"
    if isinstance(answer, KeypointAnswer):
        wrong = frame.outside(answer.point)
        return f"point: {wrong}" if wrong else ""
    if isinstance(answer, BboxAnswer):
        for index, detection in enumerate(answer.detections):
            bbox = detection.bbox
            wrong = frame.outside(bbox[:2]) or frame.outside(bbox[2:]) or frame.flat(bbox)
            if wrong:
                return f"detections[{index}].bbox: {wrong}"
    return ""


def content(answer: VqaAnswer, frame: CoordinateFrame) -> str:
    """Return an answer that is no misfit as compact JSON with sorted keys, numbers in pixels."""
    return _encoder.encode(content_of(answer, frame)).decode()


def content_of(answer: VqaAnswer, frame: CoordinateFrame) -> AnyContent:
    """Return what an assistant row holds for an answer that is no misfit."""
    match answer:
        case BboxAnswer():
            boxes = [
                Box(label=tidy_label(detection.label), bbox=frame.edges(detection.bbox), bbox_format="xyxy")
                for detection in answer.detections
            ]
            return BboxContent(detections=tuple(dict.fromkeys(boxes)))  # a thing that is listed twice is still one
        case KeypointAnswer():
            x, y = map(math.floor, frame.pixels(answer.point))
            point = min(x, frame.width_px - 1), min(y, frame.height_px - 1)
            return KeypointContent(label=tidy_label(answer.label), point=point, point_format="xy")
        case CountAnswer():
            note = folded(answer.note) if tidy_label(answer.note).casefold() not in _NO_NOTE else msgspec.UNSET
            return CountContent(label=tidy_label(answer.label), count=answer.count, note=note)
        case AttributeAnswer():
            return AttributeContent(
                label=tidy_label(answer.label),
                attribute=tidy_label(answer.attribute),
                value=tidy_label(answer.value),
            )
        case SpatialAnswer():
            return SpatialContent(
                subject=tidy_label(answer.subject),
                relation=tidy_label(answer.relation),
                object=tidy_label(answer.object),
            )
        case _:
            assert_never(answer)


def _texts(answer: VqaAnswer) -> Iterator[tuple[str, str]]:
    """Yield the texts of an answer that must say something, by the path that a model knows them under."""
    yield "question", answer.question
    match answer:
        case BboxAnswer():
            yield from ((f"detections[{index}].label", item.label) for index, item in enumerate(answer.detections))
        case KeypointAnswer() | CountAnswer():
            yield "label", answer.label
        case AttributeAnswer():
            yield from (("label", answer.label), ("attribute", answer.attribute), ("value", answer.value))
        case SpatialAnswer():
            yield from (("subject", answer.subject), ("relation", answer.relation), ("object", answer.object))
        case _:
            assert_never(answer)
