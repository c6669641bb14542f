"""The lineage record of a registered version, from which it can be explained and trained again.

It is a folder `lineage/` among the artifacts of the model:

- `lineage.json`: what `run.py lineage` prints,
- `params.yaml`: the settings of the last run of the pipeline, which dvc.lock holds,
- `dvc.lock`, `dvc.yaml` and the `.dvc` files,
- `source.patch`: the differences between the tracked files and the git commit.
"""

import json
import platform
import re
from pathlib import Path
from typing import Any, Literal

from imagecap.checkout import (
    checkout_of,
    dvc_files,
    git_changes,
    git_facts,
    git_folder,
    git_patch,
    locked_md5,
    locked_stages,
)
from imagecap.config import Settings
from imagecap.data.identity import dvc_md5, folder_digest, training_picture_digests
from imagecap.files import atomic_write_json, atomic_write_text, expand_user
from imagecap.redact import redact_uris
from imagecap.registry.versions import environment_versions
from imagecap.report.formatting import metric_label

Weights = Literal["same", "int8"]
"""The weights of a registered version: those of the trained model, or int8 weights that are made of them."""

LINEAGE_FILE = "lineage.json"
PATCH = "source.patch"
PARAMS = "params.yaml"
METRICS = "metrics/test.json"
# Tracked files that the pipeline writes: changes in them are no changes of the source.
_PIPELINE_OUTPUTS = ("dvc.lock", "metrics", "plots")
_DVC_CONFIG = ".dvc/config"
_SECRET_OPTION = re.compile(r"(?im)^\s*\w*(password|passphrase|secret|token|key|connection_string)\w*\s*=")
_PATCH_BYTES = 20_000_000


def write_record(
    target: Path,
    model_folder: Path,
    settings: Settings,
    model_hash: str,
    doubt: str | None,
    weights: Weights = "same",
) -> dict[str, Any]:
    """Write the lineage record of a model. The record of a model outside a checkout has no git, data and metrics.

    Args:
        target: folder to write.
        model_folder: the checkpoint that was trained.
        settings: the current settings.
        model_hash: `folder_digest` of the checkpoint that is registered.
        doubt: result of `check_metrics`.
        weights: those that are registered. Metrics of the trained model are left out if they are others.

    Returns:
        The content of lineage.json.
    """
    target.mkdir(parents=True, exist_ok=True)
    checkout = checkout_of(model_folder)
    facts: dict[str, Any] = {
        "model_hash": model_hash,
        "weights": weights,
        "bases": [_base(name) for name in (settings.model.vision_model_name, settings.model.language_model_name)],
        "versions": environment_versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "training_pictures": len(training_picture_digests(model_folder) or ()) or None,
        "settings": settings.model_dump(),
    }
    if checkout is not None:
        stages = locked_stages(checkout)
        facts["settings"] = settings_of_last_run(settings, stages)
        facts |= {"git": _git(checkout, target), "data": _data(checkout, stages)}
        facts["metrics"] = _metrics(checkout) if weights == "same" else {}
        facts["doubt"] = doubt
        for file in (checkout / "dvc.lock", checkout / "dvc.yaml", *dvc_files(checkout)):
            if file.is_file():  # `dvc import-url` writes URIs into .dvc files
                atomic_write_text(target / file.name, redact_uris(file.read_text(encoding="utf-8")))
        _write_params(checkout / PARAMS, target / PARAMS, facts["settings"])
    atomic_write_json(target / LINEAGE_FILE, facts)
    return facts


def check_metrics(checkout: Path, model_folder: Path) -> str | None:
    """Check by the hashes in dvc.lock that the metrics of the checkout were measured on a model.

    Returns:
        None if so, else the reason for doubt, as a sentence.
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


def settings_of_last_run(settings: Settings, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings by section, with those of dvc.lock, which the stages ran with, where it has them."""
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
    """Copy params.yaml, with the values that the model was made with."""
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
    # A DVC configuration with a password stays here. It says where data is, not what a training depends on.
    ignored = (*_PIPELINE_OUTPUTS, _DVC_CONFIG) if _has_secrets(checkout / _DVC_CONFIG) else _PIPELINE_OUTPUTS
    changed = [name for name in git_changes(checkout) if name not in ignored and name.partition("/")[0] not in ignored]
    patch = git_patch(checkout, ignored) if changed else ""
    kept = bool(patch) and len(patch) <= _PATCH_BYTES
    if kept:
        (target / PATCH).write_bytes(patch.encode("utf-8", "surrogateescape"))
    return {
        "commit": facts["git.commit"],
        "folder": git_folder(checkout),
        "clean": not changed,
        "changed": changed,
        "patch": kept,
    }


def _has_secrets(config: Path) -> bool:
    """Return whether a configuration file of DVC has a URI with a password, or an option with a secret."""
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return redact_uris(text) != text or _SECRET_OPTION.search(text) is not None


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
        kept = ("pictures", "captions", "languages", "left_out", "data_digest", "split_hash")
        facts |= {name: summary[name] for name in kept if name in summary}
    return facts


def _metrics(checkout: Path) -> dict[str, Any]:
    """Return value, 95 % confidence interval and printed name of each metric of the evaluation."""
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
    folder = expand_user(name)
    if folder.is_dir():
        return {"name": name, "sha256": folder_digest(folder)}
    try:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # the library is missing, or the name is no valid hub id
        file = None
    # …/snapshots/<commit>/config.json
    return {"name": name, "commit": Path(file).parent.name if isinstance(file, str) else None}
