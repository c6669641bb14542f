"""What is kept beside a registered model, so that the registry alone can tell how it came about and have it made anew.

A folder `lineage/` among the model's artifacts: `lineage.json` (everything that `run.py lineage` prints), `params.yaml`
(the settings that the model was made with, which are those of dvc.lock), `dvc.lock`, `dvc.yaml`, the `.dvc` files, and
`source.patch` (how the tracked files differed from the commit).
"""

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from imagecap import __version__
from imagecap.checkout import checkout_of, git_changes, git_facts, git_patch, locked_md5, locked_stages
from imagecap.config import Settings
from imagecap.data.identity import dvc_md5, folder_digest, training_picture_digests
from imagecap.files import atomic_write_json, atomic_write_text
from imagecap.report.formatting import metric_label

FACTS = "lineage.json"
PATCH = "source.patch"
PARAMS = "params.yaml"
METRICS = "metrics/test.json"
# What the pipeline itself writes: a change there is no change of the source.
MADE = ("dvc.lock", "metrics", "plots")
_PATCH_BYTES = 20_000_000
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow")


def write_record(
    target: Path, model_folder: Path, settings: Settings, model_hash: str, doubt: str | None
) -> dict[str, Any]:
    """Write `target/` for the model in `model_folder`; of a model outside a checkout there is less to tell.

    Args:
        target: folder to write.
        model_folder: the checkpoint.
        settings: as they stand now.
        model_hash: its `folder_digest`; hashing gigabytes takes seconds, so whoever has it passes it on.
        doubt: what `doubts` says of it.

    Returns:
        what went into lineage.json.
    """
    target.mkdir(parents=True, exist_ok=True)
    checkout = checkout_of(model_folder)
    facts: dict[str, Any] = {
        "model_hash": model_hash,
        "bases": [_base(name) for name in (settings.model.vision_model_name, settings.model.language_model_name)],
        "versions": versions_now(),
        "machine": f"{platform.system()} {platform.machine()}",
        "training_pictures": len(training_picture_digests(model_folder) or ()) or None,
        "settings": settings.model_dump(),
    }
    if checkout is not None:
        stages = locked_stages(checkout)
        facts["settings"] = made_with(settings, stages)
        facts |= {"git": _git(checkout, target), "data": _data(checkout, stages), "metrics": _metrics(checkout)}
        facts["doubt"] = doubt
        for file in (checkout / "dvc.lock", checkout / "dvc.yaml", *checkout.glob("?*.dvc")):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
        _write_params(checkout / PARAMS, target / PARAMS, facts["settings"])
    atomic_write_json(target / FACTS, facts)
    return facts


def doubts(checkout: Path, model_folder: Path) -> str | None:
    """Why the metrics in the checkout are not surely those of this model, as a sentence; None: they are.

    dvc.lock must hold the very hashes of `metrics/test.json` and of the model, and the evaluation must have read it.
    """
    stages = locked_stages(checkout)
    if not (checkout / METRICS).is_file():
        return f"{METRICS} is missing"
    recorded = locked_md5(stages, "evaluate", "outs", METRICS)
    if recorded is None:
        return f"dvc.lock does not know {METRICS}"
    if recorded != dvc_md5(checkout / METRICS):
        return f"{METRICS} is not the file whose hash is in dvc.lock"
    evaluated = locked_md5(stages, "evaluate", "deps", model_folder.name)
    if evaluated != dvc_md5(model_folder):
        return f"{METRICS} was measured on another model than the one in {model_folder.name}/"
    return None


def made_with(settings: Settings, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings as sections, those of dvc.lock (what the stages ran with) in place of what stands there now."""
    values = settings.model_dump()
    for stage in stages.values():
        for name, value in ((stage.get("params") or {}).get(PARAMS) or {}).items():
            section, _, field = name.partition(".")
            if section not in values:
                continue
            if field:
                values[section][field] = value
            elif isinstance(value, dict):
                values[section] |= value
    return values


def _write_params(now: Path, target: Path, made: dict[str, Any]) -> None:
    """params.yaml with the values that the model was made with."""
    import yaml

    written = yaml.safe_load(now.read_text(encoding="utf-8")) if now.is_file() else None
    sections = written if isinstance(written, dict) else {}
    for section, values in sections.items():
        for name in values or {}:
            values[name] = made.get(section, {}).get(name, values[name])
    atomic_write_text(target, yaml.safe_dump(sections, allow_unicode=True, sort_keys=False))


def _git(checkout: Path, target: Path) -> dict[str, Any]:
    facts = git_facts(checkout)
    if not facts:
        return {}
    changed = [name for name in git_changes(checkout) if name.partition("/")[0] not in MADE]
    patch = git_patch(checkout, MADE) if changed else ""
    kept = bool(patch) and len(patch) <= _PATCH_BYTES
    if kept:
        (target / PATCH).write_bytes(patch.encode("utf-8", "surrogateescape"))
    return {"commit": facts["git.commit"], "clean": not changed, "changed": changed, "patch": kept}


def _data(checkout: Path, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    prepared = locked_md5(stages, "train", "deps", "prepared")
    facts: dict[str, Any] = {
        "prepared": prepared,
        "dvc": {
            entry["path"]: entry["md5"]
            for stage in stages.values()
            for entry in stage.get("deps") or []
            if str(entry.get("md5", "")).endswith(".dir") and (checkout / f"{entry['path']}.dvc").is_file()
        },
    }
    if prepared is not None and prepared == dvc_md5(checkout / "prepared"):
        summary = json.loads((checkout / "prepared" / "summary.json").read_text(encoding="utf-8"))
        kept = ("pictures", "captions", "languages", "data_digest", "split_hash")
        facts |= {name: summary[name] for name in kept if name in summary}
    return facts


def _metrics(checkout: Path) -> dict[str, Any]:
    """Value, 95 % interval and printed name by name, of the evaluation whose metrics DVC has recorded."""
    file = checkout / "evaluation" / "eval_results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        intervals, names = found.get("intervals") or {}, found.get("names") or {}
        return {
            name: {
                "value": value,
                **dict(zip(("low", "high"), intervals.get(name) or (), strict=False)),
                "shown": metric_label(name, names),
            }
            for name, value in found["metrics"].items()
        }
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return {}


def _base(name: str) -> dict[str, str | None]:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return {"name": name, "sha256": folder_digest(folder)}
    try:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # no such library, or a name that no hub could have
        file = None
    # …/snapshots/<commit>/config.json
    return {"name": name, "commit": Path(file).parent.name if isinstance(file, str) else None}


def versions_now() -> dict[str, str]:
    """Of what decides about weights and captions here."""
    found = {"imagecap": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
