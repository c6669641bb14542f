"""Draw the architecture from the code: `python docs/draw_architecture.py` writes docs/images/{layers,picture}.svg.

The layers come from the import contract in pyproject.toml, their descriptions from the docstrings of the packages, and
the imports between them from the import graph (grimp). The stations of a picture name functions; a name that the code
does not have is an error.
"""

import ast
import textwrap
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
AROUND = ("pipelines", "sampledata", "benchmarks")
LIBRARIES = ("torch", "transformers", "matplotlib", "mlflow", "prefect")

COLOURS = {
    "data": "#dcefdc", "model": "#dbe7f7", "train": "#fbe5d0", "generate": "#e7dff5", "metrics": "#fdf3c8",
    "eval": "#fdf3c8", "report": "#fbe0e6", "page": "#fbe0e6", "registry": "#d7efef", "serve": "#d7efef",
}  # fmt: skip


@dataclass(frozen=True)
class Station:
    """A station on the way of a picture: a box of the drawing."""

    title: str
    detail: str
    place: str  # "module:name" of the code that does it
    column: int
    row: int

    @property
    def room(self) -> str:
        return self.place.split(".")[1]


STATIONS = {
    "file": Station("picture file", "JPEG, PNG, WebP, …", "imagecap.data.images:open_image", 0, 0),
    "picture": Station("decoded picture", "RGB, upright, no metadata", "imagecap.data.images:load_image", 1, 0),
    "pixels": Station(
        "pixel values", "resized and normalised", "imagecap.model.imagecap_arch:ImageCaptioner.pixel_values", 2, 0
    ),
    "features": Station(
        "patch features", "of the vision encoder", "imagecap.model.imagecap_arch:ImageCaptioner.encode_images", 3, 0
    ),
    "prefix": Station(
        "prefix", "projected patches and prompt", "imagecap.model.imagecap_arch:ImageCaptioner.project", 4, 0
    ),
    "packed": Station("packed row", "prefix with all captions", "imagecap.train.packing:pack", 0, 1),
    "loss": Station("loss", "over the caption tokens", "imagecap.train.loss:chunked_cross_entropy", 1, 1),
    "checkpoint": Station("checkpoint", "stock transformers folder", "imagecap.model.builder:load", 2, 1),
    "version": Station("registered version", "champion or challenger", "imagecap.registry.register:register", 3, 1),
    "http": Station("HTTP server", "captions for requests", "imagecap.serve.scheduler:Scheduler", 4, 1),
    "decoding": Station("decoding", "prefill, then tokens", "imagecap.generate.captioner:caption_features", 0, 2),
    "caption": Station("caption", "text and score", "imagecap.generate.captioner:caption", 1, 2),
    "scores": Station("scores", "metrics, floors, intervals", "imagecap.eval.evaluator:evaluate", 2, 2),
    "report": Station("report", "one HTML file", "imagecap.report.page:write_report", 3, 2),
}
ARROWS = (
    ("file", "picture"), ("picture", "pixels"), ("pixels", "features"), ("features", "prefix"), ("packed", "loss"),
    ("loss", "checkpoint"), ("checkpoint", "version"), ("version", "http"), ("decoding", "caption"),
    ("caption", "scores"), ("scores", "report"),
)  # fmt: skip

STYLE = """<style>
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933; font-size: 13px }
.name { font-weight: 600; font-size: 15px }
.small { font-size: 11px; fill: #52606d }
.code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 10px; fill: #52606d }
.box { stroke: #9aa5b1; stroke-width: 1 }
.arrow { stroke: #52606d; stroke-width: 1.6; fill: none; marker-end: url(#head) }
.dashed { stroke-dasharray: 5 4 }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#52606d"/></marker></defs>"""


def layers() -> list[list[str]]:
    """Return the layers of imagecap from top to bottom, each with its modules, as pyproject.toml declares them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (declared,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[module.strip().removeprefix("imagecap.") for module in layer.split("|")] for layer in declared]


def description(package: str) -> str:
    """Return the first sentence of a module's docstring."""
    base = ROOT / package.replace(".", "/")
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise SystemExit(f"{file.relative_to(ROOT)} has no docstring, from which its description would come")
    return docstring.split("\n\n")[0].replace("\n", " ").replace("`", "").rstrip(".")


def check_place(place: str) -> None:
    """Raise an error unless the module defines the name."""
    module, name = place.split(":")
    file = ROOT / (module.replace(".", "/") + ".py")
    scope: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for part in name.split("."):
        found = [node for node in getattr(scope, "body", []) if getattr(node, "name", None) == part]
        if not found:
            raise SystemExit(f"{module} does not define {name}; mend STATIONS in docs/draw_architecture.py")
        scope = found[0]


def imports() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return which rooms and which of LIBRARIES each room imports directly."""
    graph = grimp.build_graph("imagecap", *AROUND, include_external_packages=True, cache_dir=None)
    rooms: dict[str, set[str]] = {}
    libraries: dict[str, set[str]] = {}

    def room(module: str) -> str:
        parts = module.split(".")
        return parts[1] if parts[0] == "imagecap" and len(parts) > 1 else parts[0]

    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = room(module), room(imported)
            if imported in LIBRARIES:
                libraries.setdefault(source, set()).add(imported)
            elif source != target:
                rooms.setdefault(source, set()).add(target)
    return rooms, libraries


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, kind: str = "box") -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" class="{kind}"/>'


def picture(width: float, height: float, title: str, parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            STYLE,
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def draw_layers() -> str:
    """Draw the layers, each with what it is, the rooms it imports and the heavy libraries it imports."""
    rooms, libraries = imports()
    order = [module for layer in layers() for module in layer]
    width, left, gap, height = 1040, 70, 8, 58
    parts = [
        text(left, 30, "Each layer may import the layers below it, and none above.", "name"),
        f'<path class="arrow" d="M35 60 V{70 + (len(layers()) + 1) * (height + gap)}"/>',
        f'<text transform="translate(26 {90 + len(layers()) * height / 2}) rotate(-90)" text-anchor="middle" '
        'class="small">may import</text>',
    ]

    def room(name: str, x: float, y: float, wide: float) -> None:
        fill = COLOURS.get(name, "#f0f2f5")
        outside = name in AROUND
        parts.append(box(x, y, wide, height, "#ffffff" if outside else fill, "box dashed" if outside else "box"))
        parts.append(text(x + 12, y + 22, name, "name"))
        about = description(name if outside else f"imagecap.{name}")
        offset, lower = (112, 4) if wide > 600 else (12, 19)
        lines = textwrap.wrap(about.split(". ")[0], int((wide - offset - 8) / 7.2), max_lines=2, placeholder=" …")
        used = sorted(rooms.get(name, set()) & set(order), key=order.index)
        parts.extend(text(x + offset, y + 18 + lower + 14 * line, words) for line, words in enumerate(lines))
        note = ", ".join(sorted(libraries.get(name, set())))
        if wide > 600 and used and not outside:
            parts.append(text(x + offset, y + 49, "imports " + ", ".join(used), "small"))
        if note and not outside:
            parts.append(text(x + wide - 12, y + (49 if wide > 600 else 21), note, "code", "end"))

    y = 50.0
    for layer in [list(AROUND), *layers()]:
        wide = (width - left - 20 - gap * (len(layer) - 1)) / len(layer)
        for index, name in enumerate(layer):
            room(name, left + index * (wide + gap), y, wide)
        y += height + gap
    parts.append(text(left, y + 14, "Dashed: built around the package, which imports none of them.", "small"))
    parts.append(text(width - 20, y + 14, "Right: large libraries that the layer imports directly.", "small", "end"))
    return picture(width, y + 30, "The layers of ImageCap", parts)


def draw_picture() -> str:
    """Draw the way of a picture from its file to a caption over HTTP."""
    wide, high, across, down, left, top = 186, 78, 34, 62, 56, 56
    places = {key: (left + s.column * (wide + across), top + s.row * (high + down)) for key, s in STATIONS.items()}
    parts = []
    for row, words in enumerate(("every picture", "training and registering", "captioning and judging")):
        parts.append(text(left, top + row * (high + down) - 12, words, "small"))
    for key, station in STATIONS.items():
        check_place(station.place)
        x, y = places[key]
        module, name = station.place.removeprefix("imagecap.").split(":")
        parts.append(box(x, y, wide, high, COLOURS[station.room]))
        parts.append(text(x + 10, y + 21, station.title, "name"))
        parts.append(text(x + 10, y + 39, station.detail, "small"))
        parts.append(text(x + 10, y + 56, module, "code"))
        parts.append(text(x + 10, y + 69, name, "code"))
    for start, end in ARROWS:
        (x, y), (right, _) = places[start], places[end]
        parts.append(f'<path class="arrow" d="M{x + wide} {y + high / 2} H{right}"/>')
    # The prefix goes to training and to decoding, along the left margin.
    x, y = places["prefix"]
    bus = y + high + down / 2 - 8
    for key in ("packed", "decoding"):
        parts.append(
            f'<path class="arrow" d="M{x + wide / 2} {y + high} V{bus} H{left - 26} '
            f'V{places[key][1] + high / 2} H{places[key][0]}"/>'
        )
    # The checkpoint brings the weights to the decoder, and scores decide on promotion.
    links = (("checkpoint", "decoding", "weights"), ("scores", "version", "promotion"))
    for start, end, words in links:
        (x, y), (to_x, to_y) = places[start], places[end]
        up = to_y < y
        middle = (y if up else y + high) + (-1 if up else 1) * down / 2
        start_y, end_y = (y, to_y + high) if up else (y + high, to_y)
        parts.append(
            f'<path class="arrow dashed" d="M{x + wide / 2 + (30 if up else -30)} {start_y} V{middle} '
            f'H{to_x + wide * (0.5 if up else 0.87)} V{end_y}"/>'
        )
        parts.append(text((x + to_x + wide) / 2, middle - 5, words, "small", "middle"))
    width = left + 5 * wide + 4 * across + 20
    return picture(width, top + 3 * high + 2 * down + 24, "The way of a picture", parts)


def drawings() -> dict[Path, str]:
    """Return the files and what they hold."""
    return {IMAGES / "layers.svg": draw_layers(), IMAGES / "picture.svg": draw_picture()}


if __name__ == "__main__":
    for file, content in drawings().items():
        file.write_text(content, encoding="utf-8")
        print(file.relative_to(ROOT))
