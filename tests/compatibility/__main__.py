"""Writes `docs/reference/families.md`; with names of families, prints what was found about them instead."""

import argparse
import tempfile
import warnings
from pathlib import Path

from transformers.utils import logging

from imagecap.config import ModelSettings
from tests.compatibility.examination import Examination, examine_captioner, examine_language_model, examine_vision_model
from tests.compatibility.families import VISION_FAMILIES, language_families
from tests.compatibility.table import PAGE, page, samples
from tests.model.stock_captioners import CAPTIONERS
from tests.tiny import write_tiny_clip, write_tiny_qwen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("families", nargs="*")
    chosen = parser.parse_args().families
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_tiny_clip(root / "clip")
        write_tiny_qwen(root / "qwen")
        bases = ModelSettings(vision_model_name=str(root / "clip"), language_model_name=str(root / "qwen"))

        def examine(family: str) -> Examination:
            if family in CAPTIONERS:
                found = examine_captioner(family, samples(root), root / family)
            else:
                run = examine_vision_model if family in VISION_FAMILIES else examine_language_model
                found = run(family, bases, samples(root), root / family)
            if chosen or found.faults:
                print(found)
            return found

        if chosen:
            for family in chosen:
                examine(family)
            return
        kinds = (VISION_FAMILIES, language_families(), CAPTIONERS)
        text = page(*([examine(each) for each in kind] for kind in kinds))
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
