"""Setting up a training: the one place where a run is checked and constructed, for `train` and for `--dry_run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from imagecap.config import Settings, TrainSettings
from imagecap.data.data_sets import first_samples
from imagecap.data.identity import training_digest
from imagecap.data.records import Sample
from imagecap.data.samples import as_samples
from imagecap.errors import ImageCapError
from imagecap.generate.decoders import check_decoder
from imagecap.model.compute import resolve_device, resolve_dtype
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.rehearsal import rehearse_save
from imagecap.train.distributed import ProcessGroup
from imagecap.train.feature_store import stores_int8
from imagecap.train.lengths import check_lengths
from imagecap.train.memory import enable_gradient_checkpointing, store_frozen_weights_in
from imagecap.train.optimizer import build_optimizer
from imagecap.train.outputs import count_parameters, describe_unadapted
from imagecap.train.plan import Plan
from imagecap.train.progress import print_status
from imagecap.train.reward import Reward, load_reward
from imagecap.train.schedule import Phases
from imagecap.train.self_critical import SelfCritical
from imagecap.train.sharding import ShardedModel, require_shardable, scatter_state
from imagecap.train.state import (
    STATE_FILE,
    ResumeKey,
    TrainingProgress,
    Weights,
    load_state,
    require_same_key,
    resume_key,
    saved_dtype,
    share_state,
    trainable_weights,
)
from imagecap.train.step import TrainStep
from imagecap.train.trial import check_packed_rows


@dataclass
class TrainingSetup:
    """Everything that a training consists of before its first step.

    Attributes:
        settings: of the run.
        model: on its device, in evaluation mode; frozen weights may be held in `dtype`.
        dtype: of the matrix products.
        group: the processes that train together.
        plan: the training pictures and their order.
        validation_plan: the validation pictures; it may have none.
        train_step: computes losses, gradients and optimizer steps.
        weights: the weights that train.
        phases: which of them train when.
        optimizer: AdamW over `weights`.
        self_critical: makes the batches of `cider_epochs`; None without such epochs.
        data_digest: of training and validation pictures with their captions.
        key: what must be equal for a run to be resumed.
        progress: where the run starts, from its saved state if it is resumed.
        sharded: whether weights, gradients and moments are divided among the processes (`shard_model`).
    """

    settings: Settings
    model: ImageCaptioner
    dtype: torch.dtype
    group: ProcessGroup
    plan: Plan
    validation_plan: Plan
    train_step: TrainStep
    weights: Weights
    phases: Phases
    optimizer: torch.optim.AdamW
    self_critical: SelfCritical | None
    data_digest: str
    key: ResumeKey
    progress: TrainingProgress

    @property
    def sharded(self) -> bool:
        return self.train_step.sharded is not None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.plan.steps_per_epoch() * self.settings.train.num_epochs


def prepare_training(
    settings: Settings,
    model: ImageCaptioner,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    state_folder: Path,
    group: ProcessGroup | None = None,
    reward: Reward | None = None,
) -> TrainingSetup:
    """Check a training and construct its parts; with `resume` the model gets the weights of the saved state.

    Args:
        settings: all settings; `train.max_samples` and `train.validation_pictures` limit the pictures.
        model: the captioner to train. It is moved to its device and changed in place.
        training: training pictures with their captions.
        validation: validation pictures with their captions.
        state_folder: where the state of an interrupted run is.
        group: the processes that train together; default: this one alone.
        reward: what `train.cider_epochs` maximise; default: `train.reward`, or CIDEr without it.

    Raises:
        ImageCapError: there is nothing to train on, a caption is too long for the language model, the language model
            cannot be trained with an explicit attention mask, the trained model could not be saved, a setting does not
            fit the model or the data, the processes differ in them, or the saved state is damaged or belongs to another
            run.
    """
    require_pictures(training)
    options, group = settings.train, group or ProcessGroup()
    if reward is None and options.reward is not None:
        reward = load_reward(options.reward)
    device = resolve_device(settings.compute)
    dtype = _training_dtype(settings, device, state_folder, group)
    small = {weight.dtype for weight in model.parameters()} & {torch.bfloat16, torch.float16}
    if model.dtype in small or (small and dtype == torch.float32):
        model.float()  # weights that train need float32; `dtype` is that of the matrix products
    model.info = {**model.info, "reduced_decoding": options.reduced_decoding}
    shards = options.shard_model and group.size > 1
    if options.shard_model:
        require_shardable(settings, dtype, tiled=model.tiling is not None)
    # FSDP moves the weights to the device itself, in each process its part.
    # No dropout: the captions of a picture share its hidden states.
    model = model.to("cpu" if shards else device).eval()
    mix = settings.data.mix_weights
    plan = Plan(model, first_samples(training, options.max_samples, mix), options, group.size, mix)
    validation_plan = Plan(model, as_samples(validation)[: options.validation_pictures], options)
    if options.best_by is not None and not validation_plan.samples:
        raise ImageCapError("best_by needs validation pictures: set validation_fraction, or a `split` of val")
    check_lengths(model, [plan, validation_plan])
    check_decoder(model, 1, plan.longest)  # what cannot caption is not trained
    data_digest = training_digest(plan.samples + validation_plan.samples)
    key = resume_key(settings, model, data_digest, dtype)
    require_same_key(group, key)
    rehearse_save(model)
    train_step = TrainStep(
        model,
        dtype,
        group,
        compiled=settings.compute.compile,
        int8_features=stores_int8(options),
        batch_tokens=options.batch_tokens,
        sharded=ShardedModel(model, group, device) if shards else None,
    )
    check_packed_rows(train_step, plan.longest_row)
    weights = trainable_weights(model)
    optimizer = build_optimizer(model, options)
    if options.resume:
        require_state_of_first((state_folder / STATE_FILE).exists(), group)
    read = {} if shards else weights
    progress = group.on_first(lambda: _saved_progress(options, state_folder, key, read, optimizer))
    if not shards:
        share_state(group, weights, optimizer)
    elif progress is not None:
        scatter_state(group, state_folder / STATE_FILE, weights, optimizer)
    resumed = progress is not None
    progress = progress or TrainingProgress(step_pictures=plan.step_pictures)
    cut_anew = progress.step_pictures != plan.step_pictures
    plan.step_pictures = progress.step_pictures
    if progress.scaler:
        train_step.scaler.load_state_dict(progress.scaler)
    setup = TrainingSetup(
        settings=settings,
        model=model,
        dtype=dtype,
        group=group,
        plan=plan,
        validation_plan=validation_plan,
        train_step=train_step,
        weights=weights,
        phases=Phases(options, weights, plan.steps_per_epoch()),
        optimizer=optimizer,
        self_critical=SelfCritical(train_step, plan, reward) if options.cider_epochs else None,
        data_digest=data_digest,
        key=key,
        progress=progress,
    )
    if resumed:
        print_status(
            f"going on after step {progress.step} of {setup.steps}"
            + (f"; steps keep their {plan.step_pictures} pictures with another number of processes" if cut_anew else "")
        )
    if not shards:
        store_frozen_weights_in(model, dtype)
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return setup


def _training_dtype(settings: Settings, device: torch.device, folder: Path, group: ProcessGroup) -> torch.dtype:
    """The dtype of the matrix products; a run that is resumed with "auto" goes on in that of its state, wherever."""
    chosen = resolve_dtype(settings.compute, device)
    if settings.compute.dtype != "auto" or not settings.train.resume:
        return chosen
    before = group.on_first(lambda: saved_dtype(folder))
    if before is None or before == chosen:
        return chosen
    print_status(f"going on in {str(before).removeprefix('torch.')}, in which the run was started")
    return before


def announce(setup: TrainingSetup) -> None:
    """Say what is trained, where and how, and which weights get no adapters."""
    trainable, total = count_parameters(setup.model)
    processes = "" if setup.group.size == 1 else f" in {setup.group.size} processes"
    print_status(
        f"training {trainable:,} of {total:,} weights on {len(setup.plan.samples)} pictures with "
        f"{setup.plan.captions} captions; {setup.steps} steps on {setup.model.device.type}{processes} in "
        f"{str(setup.dtype).removeprefix('torch.')}"
    )
    if setup.settings.data.mix is not None:
        print_status(f"an epoch has {setup.plan.mixture.size} pictures, mixed by {setup.settings.data.mix}")
    without = describe_unadapted(setup.model)
    if without:
        print_status(without)


def require_pictures(training: Sequence[Sample]) -> None:
    """Raise an ImageCapError if there are no training pictures."""
    if not training:
        raise ImageCapError("there are no training pictures: see the `split` column of captions.json, or add pictures")


def require_state_of_first(exists: bool, group: ProcessGroup) -> None:
    """Check that no other process has the state of the run on its disk while process 0 has none.

    Args:
        exists: whether this process sees a state.
        group: the processes of the training.

    Raises:
        ImageCapError: another process sees one and process 0 does not; every process raises it.
    """
    holders = [rank for rank, found in enumerate(group.all_gather([exists])) if found]
    if holders and holders[0]:
        raise ImageCapError(
            f"process {holders[0]} has a training state on its disk, and process 0 has none: start the machine of "
            f"process {holders[0]} with --node-rank 0, copy its state folder to the first machine, or leave out "
            "--resume"
        )


def _saved_progress(
    options: TrainSettings, folder: Path, key: ResumeKey, weights: Weights, optimizer: torch.optim.Optimizer
) -> TrainingProgress | None:
    """Load the state of an interrupted run if `resume` is set; print if none is used."""
    if not options.resume:
        if (folder / STATE_FILE).exists():
            print_status(f"starting anew; the interrupted run in {folder} would have gone on with --resume")
        return None
    progress = load_state(folder, key, weights, optimizer)
    if progress is None:
        print_status(f"nothing to resume in {folder}; starting from the beginning")
    return progress
