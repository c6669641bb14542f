"""BLEU, ROUGE-L and CIDEr-D equal to coco-caption, without Java."""

from imagecap.metrics.cider import Cider
from imagecap.metrics.ngrams import References
from imagecap.metrics.scores import METRICS, Scores, prepare_references, score
from imagecap.metrics.tokenizers import TOKENIZERS, display_name, resolve_tokenizer, tokenize

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
