"""BLEU, ROUGE-L and CIDEr-D equal to coco-caption, without Java."""

from imagecap.eval.metrics.cider import Cider
from imagecap.eval.metrics.ngrams import References
from imagecap.eval.metrics.scores import METRICS, Scores, prepare_references, score
from imagecap.eval.metrics.tokenizers import TOKENIZERS, display_name, resolve_tokenizer, tokenize

__all__ = [
    "METRICS",
    "TOKENIZERS",
    "Cider",
    "References",
    "Scores",
    "display_name",
    "prepare_references",
    "resolve_tokenizer",
    "score",
    "tokenize",
]
