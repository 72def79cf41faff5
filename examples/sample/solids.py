"""Convex solids with flat faces, and the pinhole cameras that see them. Metres; colours are RGB in 0-255."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
Ring = npt.NDArray[np.intp]

TO_LIGHT = np.array([-0.35, -0.40, 0.85]) / np.linalg.norm([-0.35, -0.40, 0.85])
AMBIENT = 0.52
NEAREST_M = 0.02


class Solid(NamedTuple):
    """Flat faces over shared corners.

    `corners`: (N, 3). `rings`: per face, the corners around it. `middles`, `normals`: (F, 3), normals point to the
    side from which the face is seen. `colours`: one shaded RGB per face. `foot`: the lowest middle, to order by.
    `rim`: the corners around the shadow, which no shift of the solid changes because the light is parallel.
    """

    corners: Floats
    rings: tuple[Ring, ...]
    middles: Floats
    normals: Floats
    colours: tuple[Colour, ...]
    foot: Floats
    rim: Ring

    def moved(self, x: float, y: float, z: float) -> "Solid":
        """Return the solid moved by an offset."""
        step = np.array([x, y, z])
        return self._replace(corners=self.corners + step, middles=self.middles + step, foot=self.foot + step)


class Camera(NamedTuple):
    """A pinhole at `eye`; `turn`'s rows are the image's right, down and forward directions."""

    eye: Floats
    turn: Floats
    focal_px: float
    width_px: int
    height_px: int

    def project(self, points: Floats) -> Floats:
        """Project (N, 3) points in front of the camera to (N, 2) pixels."""
        return self.to_pixels((points - self.eye) @ self.turn.T)

    def to_pixels(self, seen: Floats) -> Floats:
        """Turn (N, 3) right, down and forward distances from the camera into (N, 2) pixels."""
        centre = (self.width_px / 2, self.height_px / 2)
        return seen[:, :2] * (self.focal_px / seen[:, 2:]) + centre

    def depth(self, points: Floats) -> Floats:
        """Return how far in front of the camera (N, 3) points lie: (N,) metres."""
        return (points - self.eye) @ self.turn[2]

    def project_polygon(self, ring: Floats) -> Floats:
        """Project a (N, 3) polygon that may reach behind the camera to (M, 2) pixels: what is behind is cut off."""
        depth = self.depth(ring) - NEAREST_M
        if depth.min() > 0:
            return self.project(ring)
        kept: list[Floats] = []
        for a, b, da, db in zip(ring, np.roll(ring, -1, 0), depth, np.roll(depth, -1), strict=True):
            if da > 0:
                kept.append(a)
            if (da > 0) != (db > 0):
                kept.append(a + (b - a) * (da / (da - db)))
        return self.project(np.array(kept)) if kept else np.empty((0, 2))


def aim_camera(eye: Floats, target: Floats, *, view_deg: float, width_px: int, height_px: int) -> Camera:
    """Return a camera at `eye` that looks at `target`; `view_deg` is the horizontal angle of view."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    focal_px = width_px / 2 / np.tan(np.radians(view_deg) / 2)
    return Camera(eye, np.stack([right, np.cross(forward, right), forward]), float(focal_px), width_px, height_px)


def box(size: tuple[float, float, float], colour: Colour) -> Solid:
    """Make a box that stands on z = 0, centred over the origin."""
    w, d, h = size[0] / 2, size[1] / 2, size[2]
    return prism(np.array([[-w, -d], [w, -d], [w, d], [-w, d]]), h, colour)


def cylinder(radius: float, height: float, colour: Colour, *, sides: int = 20) -> Solid:
    """Make a cylinder that stands on z = 0."""
    return prism(circle(radius, sides), height, colour)


def circle(radius: float, sides: int) -> Floats:
    """Return (sides, 2) points around the origin, counter-clockwise."""
    turn = np.arange(sides) * (2 * np.pi / sides)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def prism(outline: Floats, height: float, colour: Colour, *, top_scale: float = 1.0) -> Solid:
    """Raise a counter-clockwise (N, 2) outline to a height; `top_scale` makes it wider or narrower at the top."""
    count = len(outline)
    bottom = np.column_stack([outline, np.zeros(count)])
    top = np.column_stack([outline * top_scale, np.full(count, height)])
    index = np.arange(count)
    following = np.roll(index, -1)
    walls = np.stack([index, following, following + count, index + count], axis=1)
    return solid(np.concatenate([bottom, top]), (*walls, index + count, index[::-1].copy()), colour)


def beam(start: Floats, end: Floats, thickness: float, colour: Colour) -> Solid:
    """Make a square bar from one point to another."""
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, [1.0, 0.0, 0.0] if abs(along[0]) < 0.9 else [0.0, 1.0, 0.0])
    side *= thickness / 2 / np.linalg.norm(side)
    up = np.cross(side, along)
    section = np.array([-side - up, side - up, side + up, -side + up])
    rings = ([0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7], [3, 2, 1, 0])
    return solid(np.concatenate([start + section, end + section]), tuple(np.array(r) for r in rings), colour)


def solid(corners: Floats, rings: tuple[Ring, ...], colour: Colour, *, inside_out: bool = False) -> Solid:
    """Shade faces whose corners run counter-clockwise as seen from outside (from inside, if `inside_out`)."""
    middles = np.array([corners[ring].sum(axis=0) / len(ring) for ring in rings])
    first, second, third = (corners[[ring[k] for ring in rings]] for k in range(3))
    normals = np.cross(second - first, third - second) * (-1 if inside_out else 1)
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    light = AMBIENT + (1 - AMBIENT) * np.clip(normals @ TO_LIGHT, 0.0, 1.0)
    shaded = np.clip(np.outer(light, colour) * 1.04, 0, 255).astype(int).tolist()
    foot = np.append(corners.mean(axis=0)[:2], corners[:, 2].min())
    rim = _hull(_dropped(corners)[:, :2])
    return Solid(corners, rings, middles, normals, tuple((r, g, b) for r, g, b in shaded), foot, rim)


def shadow(part: Solid) -> Floats:
    """Return the (M, 3) outline of a solid's shadow: the solid dropped along the light onto the table."""
    return _dropped(part.corners[part.rim])


def _dropped(points: Floats) -> Floats:
    return points - points[:, 2:] * (TO_LIGHT / TO_LIGHT[2])


def _hull(points: Floats) -> Ring:
    """Return the indices of the convex hull of (N, 2) points, counter-clockwise (Andrew's monotone chain)."""
    order = np.lexsort((points[:, 1], points[:, 0])).tolist()
    flat = points.tolist()
    lower, upper = _chain(flat, order), _chain(flat, order[::-1])
    return np.array(lower[:-1] + upper[:-1])


def _chain(points: list[list[float]], order: list[int]) -> list[int]:
    chain: list[int] = []
    for i in order:
        x, y = points[i]
        while len(chain) > 1:
            (ax, ay), (bx, by) = points[chain[-2]], points[chain[-1]]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:  # a left turn: the corner stays
                break
            chain.pop()
        chain.append(i)
    return chain
