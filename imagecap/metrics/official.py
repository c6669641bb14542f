"""The official scorers themselves (pycocoevalcap and Java), to compare ours with."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.languages import LANGUAGES
from imagecap.metrics import meteor
from imagecap.metrics.ngrams import References
from imagecap.metrics.tokenizers import tokenize


def official_scores(
    references: References, hypotheses: Mapping[str, str], raw: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Overall BLEU 1-4, ROUGE-L and CIDEr by pycocoevalcap; METEOR too for languages that have it.

    With the tokenizer `ptb` the captions go through Stanford's program as well; with others through ours.

    Args:
        references: prepared references; they decide the images, the language and the tokenizer.
        hypotheses: one caption per image.
        raw: the references' captions as written, per image.

    Raises:
        ImageCapError: the package or Java is not installed.
    """
    program = meteor.java_program()
    if meteor.jar_folder() is None or program is None:
        raise ImageCapError(f"the official scorers cannot run here: {meteor.HOW_TO_INSTALL}")
    # the wrappers call plain `java`
    os.environ["PATH"] = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if references.tokenizer == "ptb":
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        ptb = PTBTokenizer()
        wanted = ptb.tokenize({image: [{"caption": text} for text in raw[image]] for image in references.images})
        said = ptb.tokenize({image: [{"caption": hypotheses[image]}] for image in references.images})
    else:

        def split(texts: Sequence[str]) -> list[str]:
            return [" ".join(tokens) for tokens in tokenize(texts, references.language, references.tokenizer)]

        wanted = {image: split(raw[image]) for image in references.images}
        said = {image: split([hypotheses[image]]) for image in references.images}
    with contextlib.redirect_stdout(io.StringIO()):  # they print their progress
        bleu, _ = Bleu(4).compute_score(wanted, said)
        found = {f"Bleu_{order + 1}": float(value) for order, value in enumerate(bleu)}
        found["ROUGE_L"] = float(Rouge().compute_score(wanted, said)[0])
        found["CIDEr"] = float(Cider().compute_score(wanted, said)[0])
        if references.language in LANGUAGES and LANGUAGES[references.language].has_meteor:
            from pycocoevalcap.meteor.meteor import Meteor

            found["METEOR"] = float(Meteor().compute_score(wanted, said)[0])
    return found
