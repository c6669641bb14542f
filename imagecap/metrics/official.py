"""The official scorers themselves (pycocoevalcap and Java), to compare ours with."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagecap.errors import ImageCapError
from imagecap.metrics import java
from imagecap.metrics.ngrams import References
from imagecap.metrics.tokenizers import tokenize


def official_scores(
    references: References, hypotheses: Mapping[str, str], raw: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Overall BLEU 1-4, ROUGE-L and CIDEr by pycocoevalcap; METEOR too in English.

    With the tokenizer `ptb` the captions go through Stanford's program as well; with others through ours.

    Args:
        references: of the pictures, prepared: they say which pictures, language and tokenizer.
        hypotheses: one caption per picture.
        raw: the references' captions as written.

    Raises:
        ImageCapError: the package or Java is not installed.
    """
    program = java.java()
    if java.jar_folder() is None or program is None:
        raise ImageCapError(f"the official scorers cannot run here: {java.HOW_TO}")
    # the wrappers call plain `java`
    os.environ["PATH"] = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if references.tokenizer == "ptb":
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        splitter = PTBTokenizer()
        gts = splitter.tokenize({image: [{"caption": text} for text in raw[image]] for image in references.images})
        res = splitter.tokenize({image: [{"caption": hypotheses[image]}] for image in references.images})
    else:

        def split(texts: Sequence[str]) -> list[str]:
            return [" ".join(tokens) for tokens in tokenize(texts, references.language, references.tokenizer)]

        gts = {image: split(raw[image]) for image in references.images}
        res = {image: split([hypotheses[image]]) for image in references.images}
    with contextlib.redirect_stdout(io.StringIO()):  # they report on the way
        bleu, _ = Bleu(4).compute_score(gts, res)
        found = {f"Bleu_{order + 1}": float(value) for order, value in enumerate(bleu)}
        found["ROUGE_L"] = float(Rouge().compute_score(gts, res)[0])
        found["CIDEr"] = float(Cider().compute_score(gts, res)[0])
        if references.language == "en":
            from pycocoevalcap.meteor.meteor import Meteor

            found["METEOR"] = float(Meteor().compute_score(gts, res)[0])
    return found
