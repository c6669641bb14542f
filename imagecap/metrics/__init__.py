"""Caption metrics with the numbers of coco-caption: BLEU, ROUGE-L and CIDEr-D without Java, and METEOR with it."""

from imagecap.metrics.cider import Cider
from imagecap.metrics.corpus import Corpus, overall_scores, score_corpus
from imagecap.metrics.ngrams import References
from imagecap.metrics.scores import METRICS, Scores, notes_on_missing_programs, prepare_references, score
from imagecap.metrics.tokenizers import TOKENIZERS, display_name, resolve_tokenizer, tokenize

__all__ = [
    "METRICS",
    "TOKENIZERS",
    "Cider",
    "Corpus",
    "References",
    "Scores",
    "display_name",
    "notes_on_missing_programs",
    "overall_scores",
    "prepare_references",
    "resolve_tokenizer",
    "score",
    "score_corpus",
    "tokenize",
]
