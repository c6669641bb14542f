"""Pictures, settings of every kind, and jobs that wait in line, for the tests of the scheduler."""

from typing import TYPE_CHECKING, Any

from imagecap.config import GenerateSettings
from imagecap.generate.prompts import tokenize_prompt
from imagecap.serve.waiting import CaptionRequest, PictureJob, WaitingPictures
from tests.tiny import picture

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

PICTURES = [picture(seed, (32, 32)) for seed in range(12)]
GREEDY = GenerateSettings(max_length=12)
KINDS = {
    "greedy": GREEDY,
    "short": GenerateSettings(max_length=3),
    "penalty": GenerateSettings(max_length=12, repetition_penalty=1.5, min_length=4, no_repeat_ngram_size=2),
    "sampled": GenerateSettings(max_length=12, temperature=0.8, top_k=20, top_p=0.9, sample_seed=3),
    "samples": GenerateSettings(max_length=12, temperature=0.8, num_captions=3),
    "beams": GenerateSettings(max_length=12, num_beams=3, num_captions=2),
    "started": GenerateSettings(max_length=12, caption_start="a red"),
}


def job(model: "ImageCaptioner", kind: str = "greedy", prompt: str = "a", request: Any = None, place: int = 0) -> Any:
    """A picture that waits; without `request` it is one of its own."""
    if request is None:
        request = CaptionRequest(tokenize_prompt(model, prompt, KINDS[kind]), KINDS[kind])
    return PictureJob(model.preprocess(PICTURES[:1])[0], request, place)


def many(model: "ImageCaptioner", count: int, settings: GenerateSettings = GREEDY) -> list[PictureJob]:
    """The pictures of one request."""
    request = CaptionRequest(tokenize_prompt(model, "a", settings), settings, count)
    return [job(model, request=request, place=place) for place in range(count)]


def queue(waiting: WaitingPictures, jobs: list[PictureJob]) -> list[PictureJob]:
    for each in jobs:
        waiting.put(each)
    waiting.collect(wait=False)
    return jobs
