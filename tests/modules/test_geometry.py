"""What a vqa answer becomes: pixels of the stored frame, or a reason to ask again. Never anything in between."""

import json
import math
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.modules.vqa.geometry import CoordinateFrame, VqaAnswer, content, misfit
from annotator.prompting.answers import (
    AttributeAnswer,
    BboxAnswer,
    CountAnswer,
    Detection,
    KeypointAnswer,
    SpatialAnswer,
    schema_of,
)
from annotator.vlm.scripted.schema_sampler import sample_text

RELATIVE = CoordinateFrame(width_px=640, height_px=480, units="relative_1000")
PIXELS = CoordinateFrame(width_px=640, height_px=480, units="pixels")

sides = st.integers(1, 4000)
axes = st.builds(CoordinateFrame, width_px=sides, height_px=sides, units=st.sampled_from(("relative_1000", "pixels")))
numbers = st.one_of(st.floats(allow_nan=False), st.floats(0, 1000), st.integers(0, 1000).map(float), st.floats(-5, 5))


def boxes(*corners: list[float], label: str = "cup") -> BboxAnswer:
    return BboxAnswer("Where is it?", [Detection(label, one) for one in corners])


def point(x: float, y: float) -> KeypointAnswer:
    return KeypointAnswer("Where?", "handle", [x, y])


def bbox_of(answer: BboxAnswer, frame: CoordinateFrame) -> list[int]:
    return json.loads(content(answer, frame))["detections"][0]["bbox"]


def point_of(answer: KeypointAnswer, frame: CoordinateFrame) -> list[int]:
    return json.loads(content(answer, frame))["point"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            BboxAnswer("Where?", [Detection("Red cup.", [0, 0, 500, 500]), Detection("lid", [100, 200, 300, 400])]),
            '{"detections":[{"bbox":[0,0,320,240],"bbox_format":"xyxy","label":"Red cup"},'
            '{"bbox":[64,96,192,192],"bbox_format":"xyxy","label":"lid"}]}',
        ),
        (KeypointAnswer("Where?", "handle", [250, 750]), '{"label":"handle","point":[160,360],"point_format":"xy"}'),
        (CountAnswer("How many?", "cups", 3, "one is hidden"), '{"count":3,"label":"cups","note":"one is hidden"}'),
        (CountAnswer("How many?", "cups", 0, " \n"), '{"count":0,"label":"cups"}'),
        (
            AttributeAnswer("Which colour?", "lid", "colour", "grün \n weiß"),
            '{"attribute":"colour","label":"lid","value":"grün weiß"}',
        ),
        (SpatialAnswer("Where?", "lid", "on", "jar"), '{"object":"jar","relation":"on","subject":"lid"}'),
    ],
)
def test_each_type_has_its_shape_as_canonical_json(answer: VqaAnswer, text: str) -> None:
    assert misfit(answer, RELATIVE) == ""
    assert content(answer, RELATIVE) == text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("note", ["", " ", "nothing", "None.", "N/A", "n/a.", " NOTHING. "])
def test_a_note_that_says_nothing_is_left_out(note: str) -> None:
    assert content(CountAnswer("How many?", "cups", 3, note), RELATIVE) == '{"count":3,"label":"cups"}'


def test_the_borders_of_the_frame_are_inside_it() -> None:
    assert bbox_of(boxes([0, 0, 1000, 1000]), RELATIVE) == [0, 0, 640, 480]
    assert bbox_of(boxes([0, 0, 640, 480]), PIXELS) == [0, 0, 640, 480]
    for frame, far in ((RELATIVE, (1000.0, 1000.0)), (PIXELS, (640.0, 480.0))):
        assert misfit(point(*far), frame) == ""
        assert point_of(point(*far), frame) == [639, 479]
        assert point_of(point(0, 0), frame) == [0, 0]


def test_an_edge_goes_to_the_nearest_line_between_pixels_and_a_point_to_the_pixel_it_is_in() -> None:
    assert bbox_of(boxes([1.4, 1.5, 2.4, 2.5]), PIXELS) == [1, 2, 2, 3]
    assert point_of(point(1.4, 1.9), PIXELS) == [1, 1]


@given(x=st.integers(0, 639), y=st.integers(0, 479))
def test_whole_pixels_come_back_as_they_are(x: int, y: int) -> None:
    assert point_of(point(x, y), PIXELS) == [x, y]
    assert bbox_of(boxes([x, y, x + 1, y + 1]), PIXELS) == [x, y, x + 1, y + 1]


@given(frame=axes, x=st.integers(0, 1000), y=st.integers(0, 1000))
def test_thousandths_are_converted_without_an_error_of_rounding(frame: CoordinateFrame, x: int, y: int) -> None:
    """Held to whole numbers, which cannot round."""
    frame = msgspec.structs.replace(frame, units="relative_1000")
    expected = [
        min(x * frame.width_px // 1000, frame.width_px - 1),
        min(y * frame.height_px // 1000, frame.height_px - 1),
    ]
    assert point_of(point(x, y), frame) == expected
    answer = boxes([0, 0, x, y])
    if misfit(answer, frame) == "":
        assert bbox_of(answer, frame)[2:] == [
            (2 * x * frame.width_px + 1000) // 2000,
            (2 * y * frame.height_px + 1000) // 2000,
        ]


@pytest.mark.parametrize("corners", [[300, 400, 100, 200], [100, 400, 300, 200], [300, 200, 100, 400]])
def test_corners_in_any_order_are_one_box(corners: list[float]) -> None:
    assert misfit(boxes(corners), RELATIVE) == ""
    assert bbox_of(boxes(corners), RELATIVE) == bbox_of(boxes([100, 200, 300, 400]), RELATIVE)


@pytest.mark.parametrize(
    ("answer", "frame", "said"),
    [
        (boxes([0, 0, 9, 9], [0, 0, 1001, 5]), RELATIVE, "detections[1].bbox: x is 1001, outside 0 to 1000"),
        (boxes([0, 500, 9, 520]), PIXELS, "detections[0].bbox: y is 500, outside 0 to 480"),
        (boxes([-1, 0, 9, 9]), PIXELS, "detections[0].bbox: x is -1, outside 0 to 640"),
        (point(641, 0), PIXELS, "point: x is 641, outside 0 to 640"),
        (point(0, 1000.5), RELATIVE, "point: y is 1000.5, outside 0 to 1000"),
        (boxes([10, 10, 11, 90]), RELATIVE, "detections[0].bbox: its width is less than one pixel"),
        (boxes([10, 10, 90, 10.5]), PIXELS, "detections[0].bbox: its height is less than one pixel"),
    ],
)
def test_what_lies_outside_or_has_no_area_is_said_in_the_units_of_the_prompt(
    answer: VqaAnswer, frame: CoordinateFrame, said: str
) -> None:
    assert misfit(answer, frame).startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (CountAnswer(" ", "cups", 1, ""), "question is blank"),
        (boxes([0, 0, 9, 9], label=" . "), "detections[0].label is blank"),
        (KeypointAnswer("Where?", "\t", [5, 5]), "label is blank"),
        (CountAnswer("How many?", " ", 1, ""), "label is blank"),
        (AttributeAnswer("What?", "lid", " ", "red"), "attribute is blank"),
        (AttributeAnswer("What?", "lid", "colour", " "), "value is blank"),
        (SpatialAnswer("Where?", " ", "on", "jar"), "subject is blank"),
        (SpatialAnswer("Where?", "lid", " ", "jar"), "relation is blank"),
        (SpatialAnswer("Where?", "lid", "on", " "), "object is blank"),
        (SpatialAnswer("Where?", "lid", "on", "\u200b"), "object is blank"),
    ],
)
def test_a_blank_text_is_no_answer(answer: VqaAnswer, said: str) -> None:
    assert misfit(answer, RELATIVE) == said


def test_a_box_that_is_listed_again_is_still_one() -> None:
    answer = boxes([0, 0, 100, 100], [5, 5, 50, 50], [0, 0, 100, 100])
    assert len(json.loads(content(answer, RELATIVE))["detections"]) == 2


@given(frame=axes, corners=st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4))
def test_any_boxes_are_ordered_and_inside_the_frame_or_a_misfit(frame: CoordinateFrame, corners: list[Any]) -> None:
    answer = boxes(*map(list, corners))
    if misfit(answer, frame):
        outside = any(not (0 <= n <= most) for one in corners for n, most in zip(one, frame.most * 2, strict=True))
        flat = any(min(_sides(one, frame)) < 1.001 for one in corners)
        assert outside or flat
        return
    for one in json.loads(content(answer, frame))["detections"]:
        left, top, right, bottom = one["bbox"]
        assert 0 <= left < right <= frame.width_px
        assert 0 <= top < bottom <= frame.height_px
        assert all(isinstance(number, int) for number in one["bbox"])
        if len(corners) == 1:
            assert (right - left, bottom - top) == pytest.approx(_sides(corners[0], frame), abs=1.001)


def _sides(box: tuple[float, ...], frame: CoordinateFrame) -> tuple[float, float]:
    scale_x, scale_y = frame.width_px / frame.most[0], frame.height_px / frame.most[1]
    return abs(box[2] - box[0]) * scale_x, abs(box[3] - box[1]) * scale_y


@given(frame=axes, x=numbers, y=numbers)
def test_any_point_is_a_pixel_of_the_frame_or_a_misfit(frame: CoordinateFrame, x: float, y: float) -> None:
    inside = 0 <= x <= frame.most[0] and 0 <= y <= frame.most[1]
    assert (misfit(point(x, y), frame) == "") == inside
    if inside:
        column, row = point_of(point(x, y), frame)
        assert 0 <= column < frame.width_px
        assert 0 <= row < frame.height_px


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_outside(value: float) -> None:
    assert "outside" in misfit(point(value, 1), RELATIVE)
    assert "outside" in misfit(boxes([1, 1, 2, value]), PIXELS)


@pytest.mark.parametrize("units", ["relative_1000", "pixels"])
def test_prompts_are_told_the_bounds_that_answers_are_held_to(units: Literal["relative_1000", "pixels"]) -> None:
    frame = CoordinateFrame(width_px=1280, height_px=720, units=units)
    right, bottom = frame.most
    assert f"x is 0 at the left edge and {right} at the right edge" in frame.prompt_text
    assert f"y is 0 at the top edge and {bottom} at the bottom edge" in frame.prompt_text
    assert ("pixels" in frame.prompt_text) == (units == "pixels")


@pytest.mark.parametrize("kind", [BboxAnswer, KeypointAnswer, CountAnswer, AttributeAnswer, SpatialAnswer])
def test_sampled_answers_fit(kind: type[VqaAnswer]) -> None:
    """The scripted engine stands in for a model; its answers become rows as a model's do."""
    small = CoordinateFrame(width_px=160, height_px=120, units="relative_1000")
    for seed in range(300):
        answer = msgspec.json.decode(sample_text(schema_of(kind), seed=str(seed)), type=kind)
        assert misfit(answer, small) == ""
        assert misfit(answer, PIXELS) == ""
