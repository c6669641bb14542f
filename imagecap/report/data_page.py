"""What `run.py inspect` shows of a data set: lines for the terminal, and one HTML file with pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagecap.data.data_sets import set_line
from imagecap.data.filters import left_out_text
from imagecap.data.images import thumbnail_jpeg
from imagecap.data.records import Sample
from imagecap.files import atomic_write_text
from imagecap.report.gallery import open_picture
from imagecap.report.page import jpeg_uri, template_environment
from imagecap.report.wording import html_language, language_name

PICTURES = 12
_SIDE = 360
_LISTED = 10


def facts_of(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each fact of an inspection, in words. `found` is from `inspect_data`."""
    splits = ", ".join(
        f"{split} {part['pictures']} ({part['captions']} captions)" for split, part in found["splits"].items()
    )
    sides = found["picture_sides"]
    return [
        ("format", f"{found['format']} ({_listed(found['files'], 3)})"),
        *(
            ("data set", f"{set_line(name, part)}; {part['format']}")
            for name, part in found.get("data_sets", {}).items()
        ),
        ("pictures", str(found["pictures"])),
        ("captions", f"{found['captions']}, {_spread(found['captions_per_picture'])} a picture"),
        ("splits", splits),
        *(
            (f"captions in {language_name(language)}", f"{count}, {_spread(found['caption_length'][language])} tokens")
            for language, count in found["languages"].items()
        ),
        ("picture sides", f"shorter {_spread(sides['shorter'])}, longer {_spread(sides['longer'])} pixels"),
        *((f"left out by {name}", left_out_text(counts)) for name, counts in found["left_out"].items()),
        ("data digest", found["data_digest"]),
    ]


def findings_of(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Title and lines of each kind of finding that there is: problems, duplicates, near duplicates."""
    problems = found["problems"]
    groups = [
        (f"{problems['error']} errors and {problems['warning']} warnings", problems["list"]),
        (
            f"{len(found['duplicates'])} pictures are there several times (the same pixels)",
            [" = ".join(names) for names in found["duplicates"]],
        ),
        (
            f"{len(found['near_duplicates'])} validation or test pictures look like training pictures",
            [f"{held} is like {known}" for held, known in found["near_duplicates"]],
        ),
    ]
    return [(title, list(lines)) for title, lines in groups if lines]


def format_inspection(found: Mapping[str, Any]) -> str:
    """Lines for the terminal."""
    facts = facts_of(found)
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    for title, entries in findings_of(found):
        lines += ["", f"{title}:", *(f"  {entry}" for entry in entries[:_LISTED])]
        if len(entries) > _LISTED:
            lines.append(f"  … and {len(entries) - _LISTED} more")
    return "\n".join(lines)


def write_data_page(found: Mapping[str, Any], samples: Sequence[Sample], title: str, path: Path) -> None:
    """Write the page: facts, findings, and `PICTURES` pictures at equal distances with their captions.

    Args:
        found: from `inspect_data`.
        samples: the samples of the data set.
        title: name of the data set.
        path: the HTML file to write.
    """
    count = min(PICTURES, len(samples))
    chosen = [samples[place * len(samples) // count] for place in range(count)]
    content = (
        template_environment()
        .get_template("data_page.html.j2")
        .render(
            title=title,
            facts=facts_of(found),
            findings=[(name, lines[:100], max(0, len(lines) - 100)) for name, lines in findings_of(found)],
            cards=[
                {
                    "image": sample.image,
                    "split": sample.split,
                    "uri": jpeg_uri(thumbnail_jpeg(open_picture(sample.path), _SIDE)),
                    "captions": [(caption.text, html_language(caption.language)) for caption in sample.captions],
                }
                for sample in chosen
            ],
        )
    )
    atomic_write_text(path, content)


def _spread(values: Mapping[str, float]) -> str:
    if values["min"] == values["max"]:
        return f"{values['min']:g}"
    return f"{values['min']:g} to {values['max']:g} (median {values['median']:g})"


def _listed(names: Sequence[str], limit: int) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
