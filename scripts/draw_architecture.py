"""Draw docs/architecture.svg from the import graph: `python scripts/draw_architecture.py > docs/architecture.svg`.

A box is a folder, the store's are green; an arrow points to what a folder imports. Arrows that follow from others
(a → b → c, and so a → c) are left out, or nothing could be seen.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"annotator": ROOT / "annotator", "annotator_store": ROOT / "store" / "annotator_store"}
BASE = "digests, keys, rows …"
"""The files at the top of the store, drawn as one box."""
BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 160, 32, 34, 40, 24

Graph = dict[str, set[str]]
"""Folder → the folders it imports, named `package/folder`."""


@dataclass(frozen=True)
class Box:
    """Where a folder is drawn; `x` and `y` are the top left corner, pixels."""

    name: str
    x: int
    y: int


def read_graph() -> Graph:
    """Read which folder imports which."""
    graph: Graph = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            here = _folder(package, path.relative_to(folder).with_suffix("").parts)
            if here is None:
                continue
            text = path.read_text(encoding="utf-8")
            imported = {there for name in _imports(text) if (there := _folder_of_module(name)) not in (here, None)}
            graph.setdefault(here, set()).update(name for name in imported if name)
    return graph


def _folder(package: str, parts: tuple[str, ...]) -> str | None:
    first, *rest = parts
    if rest:
        return f"{package}/{first}"
    # Errors and the Python API belong to everybody: their arrows would say nothing.
    return f"{package}/{BASE}" if package == "annotator_store" and first != "__init__" else None


def _folder_of_module(name: str) -> str | None:
    package, *parts = name.split(".")
    if package not in PACKAGES or not parts:
        return None
    if (PACKAGES[package] / parts[0]).is_dir():
        return f"{package}/{parts[0]}"
    return f"{package}/{BASE}" if package == "annotator_store" else None


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def reduce_graph(graph: Graph) -> Graph:
    """Leave out the arrows that follow from others."""
    reach: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in reach:
            reach[name] = set()  # no folder reaches itself: the layers have no cycle
            reach[name] = graph.get(name, set()).union(*(reached(there) for there in graph.get(name, set())))
        return reach[name]

    return {
        here: {there for there in targets if not any(there in reached(other) for other in targets - {there})}
        for here, targets in graph.items()
    }


def place(graph: Graph) -> dict[str, Box]:
    """Place each folder one row above the highest that it imports; the store's rows lie below all others."""
    depth: dict[str, int] = {}

    def depth_of(name: str, lowest: int = 0) -> int:
        if name not in depth:
            package = name.partition("/")[0]
            below = (there for there in graph[name] if there.startswith(f"{package}/"))
            depth[name] = max((1 + depth_of(there, lowest) for there in below), default=lowest)
        return depth[name]

    store = [name for name in sorted(graph) if name.startswith("annotator_store/")]
    top = max(depth_of(name) for name in store)
    rows: dict[int, list[str]] = {}
    for name in sorted(graph):
        rows.setdefault(depth_of(name, 0 if name in store else top + 1), []).append(name)
    width = max(len(names) for names in rows.values()) * (BOX_W + GAP_X) - GAP_X
    boxes: dict[str, Box] = {}
    for level, names in rows.items():
        y = MARGIN + (max(rows) - level) * (BOX_H + GAP_Y)
        left = MARGIN + (width - (len(names) * (BOX_W + GAP_X) - GAP_X)) // 2
        for column, name in enumerate(names):
            boxes[name] = Box(name=name, x=left + column * (BOX_W + GAP_X), y=y)
    return boxes


def render(graph: Graph, boxes: Mapping[str, Box]) -> str:
    """Render the boxes and arrows as one SVG with its own colours, light and dark."""
    width = max(box.x for box in boxes.values()) + BOX_W + MARGIN
    height = max(box.y for box in boxes.values()) + BOX_H + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>",
        "rect { fill: #eef3fb; stroke: #5b7db1; rx: 6 } .store rect { fill: #eef8f0; stroke: #4f8a62 }",
        "text { fill: #1c2733; font-size: 13px; text-anchor: middle }",
        "path { fill: none; stroke: #8794a3; stroke-width: 1.2; marker-end: url(#tip) } #tip path { fill: #8794a3 }",
        "@media (prefers-color-scheme: dark) { rect { fill: #1d2a3d } .store rect { fill: #1b3324 }",
        "  text { fill: #e6edf3 } }",
        "</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="marker-end:none;stroke:none"/></marker></defs>',
    ]
    for here in sorted(boxes):
        for there in sorted(graph.get(here, set())):
            lines.append(_arrow(boxes[here], boxes[there]))
    for box in sorted(boxes.values(), key=lambda box: (box.y, box.x)):
        package, folder = box.name.split("/")
        kind = ' class="store"' if package == "annotator_store" else ""
        x, y = box.x + BOX_W // 2, box.y
        lines.append(
            f'<g{kind}><rect x="{box.x}" y="{y}" width="{BOX_W}" height="{BOX_H}"/>'
            f'<text x="{x}" y="{y + 21}">{folder}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _arrow(box: Box, target: Box) -> str:
    x1, y1, x2, y2 = box.x + BOX_W // 2, box.y + BOX_H, target.x + BOX_W // 2, target.y
    bend = (y2 - y1) // 2
    return f'<path d="M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"/>'


def draw_architecture() -> str:
    """Return the picture of this checkout."""
    graph = reduce_graph(read_graph())
    return render(graph, place(graph))


if __name__ == "__main__":
    sys.stdout.write(draw_architecture())
