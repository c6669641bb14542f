"""`run.py eval`: a folder of pictures in, their captions and scores out."""

from pathlib import Path

from imagecap.commands.compare import load_results
from imagecap.config import Settings
from imagecap.data.dataset import read_captions, read_image_folder
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.eval.compare import compare_results
from imagecap.files import atomic_write_json


def run_evaluation(
    settings: Settings,
    *,
    model_path: Path,
    test_dir: Path,
    output_file: Path,
    report_file: Path | None,
    training_data: Path | None,
    compare_with: str | None,
) -> None:
    """Caption every picture of `test_dir`, score the captions where there are references, and print the scores.

    The captions of the training split of `training_data` make the floors. With `compare_with` (see `load_results`)
    the captions are compared with those of an earlier evaluation.

    Raises:
        ImageCapError: the model, the folder or a picture cannot be read, or the results cannot be written.
    """
    for file in (output_file, report_file):
        if file is not None:
            _check_writable(file)
    samples = read_image_folder(test_dir, settings.data)
    training = _training(training_data, settings) if training_data is not None else []
    earlier = load_results(compare_with) if compare_with is not None else None

    from imagecap.eval.evaluator import evaluate
    from imagecap.generate.captioner import open_captioner
    from imagecap.report.page import write_report
    from imagecap.report.tables import format_comparison, format_evaluation

    model = open_captioner(model_path, settings.compute)
    found = evaluate(model, samples, settings, training).to_dict()
    atomic_write_json(output_file, found)
    comparison = compare_results(earlier, found) if earlier is not None else None
    if report_file is not None:
        pictures = {sample.image: sample.path for sample in samples}
        write_report(found, pictures, report_file, comparison=comparison)
    print(format_evaluation(found))
    if comparison is not None:
        print(format_comparison(comparison))
    print("\n".join(f"note: {note}" for note in found["notes"]))
    print(f"captions and scores of {len(found['results'])} pictures: {output_file}")
    if report_file is not None:
        print(f"report: {report_file}")


def _training(folder: Path, settings: Settings) -> list[Sample]:
    samples, _ = read_captions(settings.data.model_copy(update={"data_path": str(folder)}))
    return [sample for sample in samples if sample.split == "train"]


def _check_writable(file: Path) -> None:
    """Better now than after an hour of captioning."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise ImageCapError(f"{file} is a folder; give the name of a file to write")
        probe = file.with_name(f".{file.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ImageCapError(f"{file} cannot be written: {error.strerror}") from None
