"""The schema of all settings, read by the command line, params.yaml, Prefect and MLflow.

Every setting is declared and described once. Sections are the sections of `params.yaml`; field names are unique over
all sections, so that each is one flag on the command line (`--learning_rate`).
"""

from imagecap.config.data import DataSettings
from imagecap.config.evaluate import EvaluateSettings, PromoteSettings, TrackingSettings
from imagecap.config.generate import GenerateSettings
from imagecap.config.model import ComputeSettings, ModelSettings
from imagecap.config.schema import Settings, parse_settings, read_params, result_neutral, section_class, with_changes
from imagecap.config.setting import changes_results, choices_of, describe
from imagecap.config.train import TrainSettings

__all__ = [
    "ComputeSettings",
    "DataSettings",
    "EvaluateSettings",
    "GenerateSettings",
    "ModelSettings",
    "PromoteSettings",
    "Settings",
    "TrackingSettings",
    "TrainSettings",
    "changes_results",
    "choices_of",
    "describe",
    "parse_settings",
    "read_params",
    "result_neutral",
    "section_class",
    "with_changes",
]
