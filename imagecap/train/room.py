"""Room on the disk for what a training writes: its state while it runs, and the checkpoints at the end."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from imagecap.errors import ImageCapError
from imagecap.model.weight_files import WeightFiles
from imagecap.train.disk import mount_point, size_text
from imagecap.train.setup import TrainingSetup
from imagecap.train.state import BEST_FILE, STATE_FILE


@dataclass(frozen=True)
class DiskSpace:
    """Bytes that a training writes.

    Attributes:
        checkpoints: `final/`, and `last/` where `best_by` chooses between validations.
        state: the state of the training, with the one before it, which is kept until the new one is complete.
    """

    checkpoints: int
    state: int


def disk_space(setup: TrainingSetup) -> DiskSpace:
    """What a training will have on the disk at its end, in bytes."""
    trained = 4 * sum(weight.numel() for weight in setup.weights.values())
    chooses = setup.settings.train.best_by is not None
    checkpoint = WeightFiles(setup.model.llava, torch.float32).nbytes
    # with AdamW's moments a state has three numbers per weight, the best weights have one
    return DiskSpace(checkpoints=checkpoint * (1 + chooses), state=2 * trained * (3 + chooses))


def require_room(setup: TrainingSetup, output: Path, state_folder: Path, features: int = 0) -> None:
    """Check before the first step that the disk has room for the state, the feature cache and the checkpoints.

    Args:
        setup: the training.
        output: where the checkpoints will be.
        state_folder: where the state is. Files of an earlier state count as room, since they are replaced.
        features: bytes that will be added to the feature cache, which is beside the state.

    Raises:
        ImageCapError: there is too little; says how much and on which disk.
    """
    space = disk_space(setup)
    old = [state_folder / STATE_FILE, state_folder / BEST_FILE]
    state = space.state - sum(file.stat().st_size for file in old if file.exists())
    needs: dict[Path, int] = {}
    for folder, size in ((output, space.checkpoints), (state_folder, max(0, state) + features)):
        disk = mount_point(folder)
        needs[disk] = needs.get(disk, 0) + size
    for disk, needed in needs.items():
        free = shutil.disk_usage(disk).free
        if free < needed:
            kept = f", {size_text(features)} of it for the feature cache (--feature_cache_gb)" if features else ""
            raise ImageCapError(
                f"the disk at {disk} has {size_text(free)} left, and this training writes {size_text(needed)} to it "
                f"for its state and its checkpoints{kept}: make room, or choose another --output_dir"
            )
