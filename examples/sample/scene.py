"""One frame's pixels: table, goal, objects and arm, seen by the fixed camera or by the one on the wrist.

Drawn at twice the size and halved, which smooths the edges. Farther solids are drawn first.
"""

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .motion import Episode, Goal, Thing
from .solids import (
    NEAREST_M,
    Camera,
    Colour,
    Floats,
    Solid,
    aim_camera,
    beam,
    box,
    circle,
    cylinder,
    prism,
    shadow,
    solid,
)

SCALE = 2
TOP_PX = (320, 240)
WRIST_PX = (240, 240)

FLOOR: Colour = (96, 100, 108)
TABLE: Colour = (196, 170, 138)
SEAM: Colour = (178, 152, 120)
MAT: Colour = (150, 156, 150)
METAL: Colour = (72, 78, 90)
ARM: Colour = (222, 224, 228)
PAD: Colour = (38, 40, 46)
SHADE = 78
"""How dark a shadow is, of 255."""

LENS, AIM = np.array([0.0, -0.085, 0.135]), np.array([0.0, -0.002, 0.0])
"""Where the wrist camera is and what it looks at, from the hand."""

TABLE_X, TABLE_Y = (-0.42, 0.42), (-0.30, 0.50)
SHOULDER = np.array([0.0, 0.44, 0.16])
WRIST = np.array([0.0, 0.0, 0.16])
UPPER_M, FORE_M = 0.34, 0.32
FINGER = (0.012, 0.022, 0.075)
PLATE_M, BOWL_M, RIM_M = 0.072, 0.062, 0.032


def draw_top(episode: Episode, frame: int) -> npt.NDArray[np.uint8]:
    """Draw the fixed view: (240, 320, 3) uint8 RGB."""
    # Nothing on the ground moves under a camera that does not: it is painted once an episode.
    ground = _fixed_ground(episode.task.goal, *episode.goal_xy).copy()
    return _draw(episode, frame, _top_camera(), ground, arm=True)


def draw_wrist(episode: Episode, frame: int) -> npt.NDArray[np.uint8]:
    """Draw the view that goes with the hand: (240, 240, 3) uint8 RGB."""
    eye, target = episode.hand[frame] + LENS, episode.hand[frame] + AIM
    camera = aim_camera(eye, target, view_deg=66, width_px=WRIST_PX[0] * SCALE, height_px=WRIST_PX[1] * SCALE)
    return _draw(episode, frame, camera, _ground(camera, episode.task.goal, *episode.goal_xy), arm=False)


@cache
def _top_camera() -> Camera:
    width_px, height_px = TOP_PX[0] * SCALE, TOP_PX[1] * SCALE
    eye, target = np.array([0.0, -0.62, 0.58]), np.array([0.0, 0.055, 0.03])
    return aim_camera(eye, target, view_deg=46, width_px=width_px, height_px=height_px)


@lru_cache(maxsize=8)
def _fixed_ground(goal: Goal, x: float, y: float) -> Image.Image:
    return _ground(_top_camera(), goal, x, y)


def _ground(camera: Camera, goal: Goal, x: float, y: float) -> Image.Image:
    """Paint what stays: floor, table, seams, mat, and the goal as far as it lies behind its content."""
    picture = Image.new("RGB", (camera.width_px, camera.height_px), FLOOR)
    pen = ImageDraw.Draw(picture)
    _fill(pen, camera, _rectangle(TABLE_X, TABLE_Y), TABLE)
    for seam_y in np.arange(TABLE_Y[0] + 0.1, TABLE_Y[1], 0.1).tolist():
        _fill(pen, camera, _rectangle(TABLE_X, (seam_y, seam_y + 0.003)), SEAM)
    _fill(pen, camera, _rectangle((-0.26, 0.26), (-0.17, 0.21)), MAT)
    behind, _ = _goal(goal, x, y)
    _draw_shadows(picture, camera, [behind[0]])
    for part in behind:
        _draw_solid(pen, camera, part)
    return picture


def _rectangle(x: tuple[float, float], y: tuple[float, float]) -> Floats:
    return np.array([[x[0], y[0], 0.0], [x[1], y[0], 0.0], [x[1], y[1], 0.0], [x[0], y[1], 0.0]])


def _fill(pen: ImageDraw.ImageDraw, camera: Camera, ring: Floats, colour: Colour) -> None:
    outline = camera.project_polygon(ring)
    if len(outline) > 2:
        pen.polygon(outline.ravel().tolist(), fill=colour)


def _draw(episode: Episode, frame: int, camera: Camera, picture: Image.Image, *, arm: bool) -> npt.NDArray[np.uint8]:
    _, goal_front = _goal(episode.task.goal, *episode.goal_xy)
    hand, opening = episode.hand[frame], float(episode.opening[frame])
    thing = _thing(episode.task.thing).moved(*episode.thing[frame].tolist())
    bystander = _thing(episode.bystander).moved(*episode.bystander_xy, 0.0)
    standing = [thing, bystander, *_gripper(hand, opening), *(_arm(hand) if arm else ())]
    _draw_shadows(picture, camera, standing)
    pen = ImageDraw.Draw(picture)
    # Painter's algorithm: a solid is ranked by its foot, the goal's front by its nearest face.
    ranked = list(zip(camera.depth(np.array([part.foot for part in standing])).tolist(), standing, strict=True))
    ranked += [(float(camera.depth(part.middles).min()), part) for part in goal_front]
    for _, part in sorted(ranked, key=lambda pair: -pair[0]):
        _draw_solid(pen, camera, part)
    return np.asarray(picture.reduce(SCALE))


def _draw_shadows(picture: Image.Image, camera: Camera, parts: list[Solid]) -> None:
    """Darken the table under the parts, once where shadows overlap."""
    # One mask for all parts: pasted one by one, overlapping shadows would add up.
    mask = Image.new("L", picture.size)
    pen = ImageDraw.Draw(mask)
    for part in parts:
        outline = camera.project_polygon(shadow(part))
        if len(outline) > 2:
            pen.polygon(outline.ravel().tolist(), fill=SHADE)
    extent = mask.getbbox()
    if extent is not None:
        picture.paste((20, 20, 30), extent, mask.crop(extent))


def _draw_solid(pen: ImageDraw.ImageDraw, camera: Camera, part: Solid) -> None:
    """Fill the faces that look at the camera; parts too near to the lens are left out."""
    # Convex solids hide their own back: only faces towards the camera are filled, in any order.
    seen = (part.corners - camera.eye) @ camera.turn.T
    if seen[:, 2].min() < NEAREST_M:
        return
    pixels = camera.to_pixels(seen)
    facing = (part.normals * (camera.eye - part.middles)).sum(axis=1) > 0
    for face in facing.nonzero()[0].tolist():
        pen.polygon(pixels[part.rings[face]].ravel().tolist(), fill=part.colours[face])


@cache
def _thing(thing: Thing) -> Solid:
    if thing.shape == "cylinder":
        return cylinder(thing.size[0] / 2, thing.size[2], thing.colour)
    return box(thing.size, thing.colour)


@lru_cache(maxsize=32)
def _goal(goal: Goal, x: float, y: float) -> tuple[tuple[Solid, ...], tuple[Solid, ...]]:
    """Return the parts drawn before whatever lies in the goal, and those drawn after it."""
    if goal.shape == "plate":
        lighter = tuple(min(255, int(c * 1.12) + 8) for c in goal.colour)
        well = cylinder(PLATE_M * 0.72, 0.001, (lighter[0], lighter[1], lighter[2]), sides=32).moved(x, y, goal.surface)
        return (cylinder(PLATE_M, goal.surface, goal.colour, sides=32).moved(x, y, 0.0), well), ()
    outside = prism(circle(BOWL_M * 0.7, 28), RIM_M, goal.colour, top_scale=1 / 0.7)
    inner = prism(circle(BOWL_M * 0.66, 28), RIM_M, goal.colour, top_scale=0.94 / 0.66)
    walls = solid(outside.corners, outside.rings[:28], goal.colour)
    dark = (int(goal.colour[0] * 0.8), int(goal.colour[1] * 0.8), int(goal.colour[2] * 0.8))
    hollow = solid(inner.corners, inner.rings[:28], dark, inside_out=True)
    floor = cylinder(BOWL_M * 0.66, 0.001, dark, sides=28).moved(0, 0, goal.surface - 0.001)
    return (outside.moved(x, y, 0.0), floor.moved(x, y, 0.0), hollow.moved(x, y, 0.0)), (walls.moved(x, y, 0.0),)


@cache
def _gripper_parts() -> tuple[Solid, Solid, Solid, Solid]:
    """Return the palm, the wrist above it, one finger and the pad on its inside."""
    palm, wrist = box((0.13, 0.032, 0.024), METAL), cylinder(0.024, 0.05, ARM, sides=14)
    return palm, wrist, box(FINGER, METAL), box((FINGER[0] * 0.9, FINGER[1], 0.022), PAD)


def _gripper(hand: Floats, opening: float) -> list[Solid]:
    x, y, z = hand.tolist()
    palm, wrist, finger, pad = _gripper_parts()
    reach = opening / 2 + FINGER[0] / 2
    tip_z = z - 0.008
    fingers = [finger.moved(x + side * reach, y, tip_z + 0.02) for side in (-1, 1)]
    pads = [pad.moved(x + side * reach, y, tip_z) for side in (-1, 1)]
    return [*pads, *fingers, palm.moved(x, y, tip_z + 0.02 + FINGER[2]), wrist.moved(x, y, tip_z + 0.044 + FINGER[2])]


@cache
def _base() -> Solid:
    return cylinder(0.055, float(SHOULDER[2]), METAL, sides=16).moved(float(SHOULDER[0]), float(SHOULDER[1]), 0.0)


def _arm(hand: Floats) -> list[Solid]:
    """Return the arm: two links bent from the shoulder to the wrist, the elbow up."""
    wrist = hand + WRIST
    span = wrist - SHOULDER
    # Slightly short of straight: there the elbow has a direction to bend to.
    reach = min(float(np.linalg.norm(span)), 0.999 * (UPPER_M + FORE_M))
    along = span / np.linalg.norm(span)
    up = np.array([0.0, 0.0, 1.0]) - along * along[2]
    up /= np.linalg.norm(up)
    out = (UPPER_M**2 - FORE_M**2 + reach**2) / (2 * reach)
    elbow = SHOULDER + along * out + up * np.sqrt(max(UPPER_M**2 - out**2, 0.0))
    return [_base(), beam(SHOULDER, elbow, 0.05, ARM), beam(elbow, wrist, 0.042, ARM)]
