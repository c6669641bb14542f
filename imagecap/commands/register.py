"""`run.py register`: register the pipeline's model, and decide whether it becomes the champion."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict

from imagecap.errors import require_package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--promote", dest="promote", action="store_true", default=None, help="make it champion without a comparison"
    )
    choice.add_argument("--no_promote", dest="promote", action="store_false", help="leave the champion as it is")
    choice.add_argument(
        "--compare_only", action="store_true", help="register and compare, write the decision down, move no alias"
    )
    parser.add_argument(
        "--weights",
        choices=("same", "int8"),
        default="same",
        help="register the model as it is, or with int8 weights in its language model (default: same)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Register the model in `model/` of the checkout, and print the version and the decision.

    Raises:
        ImageCapError: this is no checkout, it has no trained model, or the store cannot be opened.
    """
    require_package("mlflow")
    from imagecap.registry.register import register_pipeline_model

    with redirect_stdout(sys.stderr):  # standard output is for the result; libraries may print as well
        done = register_pipeline_model(
            arguments.promote, compare_only=arguments.compare_only, weights=arguments.weights
        )
    if arguments.json:
        print(json.dumps(asdict(done), ensure_ascii=False))
        return
    for number in done.removed:
        print(f"{done.name} version {number}: removed (more than promote.kept_versions)")
    alias = f" @{done.alias}" if done.alias else ""
    state = "registered" if done.is_new else "was registered before, unchanged"
    print(f"{done.name} version {done.version}{alias}: {state}")
    if done.alias is None:
        print(f"decision:  {'promote' if done.decision.promoted else 'keep the champion'}: {done.decision.reason}")
        return
    print(f"why:       {done.decision.reason}")
    if done.champion is None:
        print("there is no champion yet; make one with:  python run.py register --promote")
        return
    if not done.decision.promoted:
        print(f"champion:  version {done.champion} stays")
    print(f"serve it:  mlflow models serve -m models:/{done.name}@champion --env-manager local -p 5001")
