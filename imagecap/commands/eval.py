"""`run.py eval`: caption a folder of pictures and score the captions."""

import argparse
from pathlib import Path

from imagecap.commands import add_json, add_model_path, print_json
from imagecap.commands.compare import load_results
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.data.remote import path_or_url
from imagecap.files import atomic_write_json, require_writable_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model_path(parser)
    parser.add_argument(
        "--test_dir", required=True, type=path_or_url, metavar="FOLDER", help="pictures, with or without captions.json"
    )
    parser.add_argument("--output_file", default="./eval_results.json", type=Path, metavar="FILE", help="JSON to write")
    parser.add_argument("--report_file", type=Path, metavar="FILE", help="also write an HTML report with the pictures")
    parser.add_argument(
        "--training_data",
        type=path_or_url,
        metavar="FOLDER",
        help="data folder of the training; its captions make the floors, the trivial baselines beside the scores",
    )
    parser.add_argument(
        "--compare_with", metavar="RESULTS", help="an earlier eval_results.json, MLflow run id or git revision"
    )
    add_json(parser)
    add_flags(parser, ("data", "generate", "evaluate", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Caption every picture of `--test_dir`, score the captions where there are references, and print the scores.

    Raises:
        ImageCapError: the model, the folder or a picture cannot be read, or the results cannot be written.
    """
    settings = settings_from_flags(arguments)
    output, report = arguments.output_file, arguments.report_file
    for file in (output, report):
        if file is not None:
            require_writable_file(file)
    from imagecap.data.dataset import read_captions, read_image_folder
    from imagecap.data.picture_paths import PicturePaths

    samples = read_image_folder(arguments.test_dir, settings.data)
    known = arguments.training_data
    training = read_captions(settings.data, known)[0].of_split("train") if known is not None else []
    earlier = load_results(arguments.compare_with) if arguments.compare_with is not None else None

    from imagecap.eval.compare import compare_results
    from imagecap.eval.evaluator import evaluate
    from imagecap.generate.captioner import open_captioner
    from imagecap.report.page import write_report
    from imagecap.report.tables import format_comparison, format_evaluation

    model = open_captioner(arguments.model_path, settings.compute)
    found = evaluate(model, samples, settings, training).contents()
    atomic_write_json(output, found)
    comparison = compare_results(earlier, found) if earlier is not None else None
    if report is not None:
        write_report(found, PicturePaths(samples), report, comparison=comparison)
    if arguments.json:
        kept = {name: found[name] for name in ("metrics", "intervals", "names", "floors", "notes")}
        files = {"output_file": str(output), "report_file": str(report) if report is not None else None}
        compared = {"comparison": comparison.to_dict()} if comparison is not None else {}
        print_json({**kept, "pictures": len(found["results"]), **files, **compared})
        return
    print(format_evaluation(found))
    if comparison is not None:
        print(format_comparison(comparison))
    print("\n".join(f"note: {note}" for note in found["notes"]))
    print(f"captions and scores of {len(found['results'])} pictures: {output}")
    if report is not None:
        print(f"report: {report}")
