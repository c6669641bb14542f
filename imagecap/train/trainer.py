"""The training loop: make optimizer steps, validate, save, write the checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from imagecap.config import Settings
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.model.compute import resolve_device
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.weight_files import WeightFiles
from imagecap.train.distributed import process_group
from imagecap.train.feature_store import open_feature_store
from imagecap.train.heartbeats import LostProcessError
from imagecap.train.loader import LoadedStep, Loader
from imagecap.train.memory import memory_errors, memory_errors_of_saving, peak_memory, release_freed_memory
from imagecap.train.optimizer import set_learning_rates
from imagecap.train.outputs import (
    TrainSummary,
    claimed_output,
    count_parameters,
    finish,
    last_losses,
    losses_at,
    save_checkpoint,
    write_history,
    write_summary,
)
from imagecap.train.plan import describe
from imagecap.train.progress import (
    MetricLogger,
    ProgressCallback,
    Reporter,
    Stopwatch,
    ThroughputMeter,
    format_duration,
    print_status,
    progress_bar,
)
from imagecap.train.reward import Reward
from imagecap.train.room import require_room
from imagecap.train.setup import TrainingSetup, announce, prepare_training
from imagecap.train.sharding import scatter_best
from imagecap.train.signals import DeferredSignals, deferred_signals
from imagecap.train.state import load_best, remove_state, save_best
from imagecap.train.state_keeper import StateKeeper
from imagecap.train.validation import BestValidation, Validator

MAX_CONSECUTIVE_SKIPS = 10  # a run that only skips steps learns nothing


def train(
    settings: Settings,
    model: ImageCaptioner,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    *,
    state_folder: Path,
    log: MetricLogger | None = None,
    callback: ProgressCallback | None = None,
    reward: Reward | None = None,
) -> TrainSummary:
    """Train `model` in place and write `final/`, `train_summary.json` and `history.jsonl` under `output_dir`.

    Args:
        settings: all settings of the run.
        model: the captioner to train.
        training: training pictures with their captions.
        validation: validation pictures with their captions; may be empty.
        state_folder: the state of an interrupted run is kept here and removed when the run is complete; the feature
            cache stays here for the next run.
        log: receives the metrics, such as an MLflow run.
        reward: what `train.cider_epochs` maximise instead of CIDEr.
        callback: called after every optimizer step, in the main process.

    Raises:
        ImageCapError: the training cannot be set up (see `prepare_training`), nothing can be written, the disk is full,
            memory runs out, the loss is not finite, or another process of the training is lost.
        SystemExit: a signal that asks to end came, such as Ctrl-C (status 130) or SIGTERM (143); the state is saved.
            During the set-up, when there is nothing to save, signals do what they did before.
    """
    state_folder = Path(state_folder)
    with ExitStack() as stack:
        group = stack.enter_context(process_group(resolve_device(settings.compute)))
        group.on_first(lambda: stack.enter_context(claimed_output(Path(settings.train.output_dir), state_folder)))
        stack.enter_context(memory_errors(settings.train.batch_size))
        watch = Stopwatch()
        setup = prepare_training(settings, model, training, validation, state_folder, group, reward)
        signals = stack.enter_context(deferred_signals())
        return _TrainingLoop(setup, state_folder, signals, watch, log, callback).run()


class _TrainingLoop:
    """Runs what `prepare_training` has set up."""

    def __init__(
        self,
        setup: TrainingSetup,
        state_folder: Path,
        signals: DeferredSignals,
        watch: Stopwatch,
        log: MetricLogger | None,
        callback: ProgressCallback | None,
    ) -> None:
        self.setup, self.folder, self.signals, self.watch = setup, state_folder, signals, watch
        self.settings, self.options, self.group = setup.settings, setup.settings.train, setup.group
        self.model, self.progress, self.train_step = setup.model, setup.progress, setup.train_step
        self.output = Path(self.options.output_dir)
        self.meter = ThroughputMeter()
        self.best = BestValidation(self.options, self.progress.best)
        self.report = Reporter(setup.steps, self.options, log, callback)
        self.state = StateKeeper(setup, state_folder, signals, watch)
        self.consecutive_skips = 0

    def run(self) -> TrainSummary:
        """The whole run; see `train`."""
        self.state.find_sharing()
        try:
            return self._run()
        except LostProcessError as error:
            raise LostProcessError(error.ranks, self.state.save_without(error.ranks)) from None
        finally:
            if self.group.heartbeats is not None:  # from here on each process goes its own way
                self.group.heartbeats.stop()

    def _run(self) -> TrainSummary:
        setup, pixels = self.setup, self.settings.data.max_image_pixels
        announce(setup)
        self.features = open_feature_store(self.train_step, self.folder / "features", self.settings)
        if self.features is not None:
            self.state.interruptible_in_all(self.features.open([setup.plan, setup.validation_plan]))
            self.train_step.keep = self.features.add
        cached = self.features.missing_bytes if self.features is not None else 0
        self.group.on_first(lambda: require_room(setup, self.output, self.folder, cached))
        cache = self.features.cache if self.features is not None else None
        loader = Loader(self.model, setup.plan, cache, pixels, self.group)
        validation_loader = Loader(self.model, setup.validation_plan, cache, pixels)
        self.validator = Validator(self.train_step, validation_loader, self.options, self.state.interruptible_in_all)
        while self.progress.epoch < self.options.num_epochs and not self.best.patience_exhausted:
            setup.phases.select_weights(self.progress.epoch)
            self.train_step.wrap_distributed()
            self._epoch(loader)
        return self._finish()

    def _epoch(self, loader: Loader) -> None:
        """The rest of the current epoch, unless validation ends the training."""
        progress, options = self.progress, self.options
        self._validate_if_due()  # the run may have been stopped before or in a validation
        if self.best.patience_exhausted:
            self._end_epoch()
            return
        self._refresh_features()
        steps = self.setup.plan.epoch(progress.epoch, progress.epoch_step)
        self.watch.lap()
        title = f"epoch {progress.epoch + 1}/{options.num_epochs}"
        with progress_bar(title, self.setup.steps, "step", progress.step) as bar:
            for loaded in loader.steps(steps):
                step = loaded.step
                waited, encoded = self.watch.lap(), self.train_step.encode_seconds
                loss, learning_rate, stops = self._step(loaded)
                encoded = self.train_step.encode_seconds - encoded
                self.meter.add(waited + self.watch.lap() - encoded, waited, step.captions)
                self.meter.encoding_left = self._encoding_left()
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                self.report.step(progress, loss, learning_rate, self.meter)
                self.state.leave_after_step(stops)
                self._validate_if_due()
                if self.best.patience_exhausted:
                    break
                if progress.step % options.save_every == 0:
                    self.state.save()
                    self.state.leave_if_stopped()
                self.watch.lap()
        self._end_epoch()

    def _step(self, loaded: LoadedStep) -> tuple[float, float, float]:
        """Make one optimizer step and count it.

        Returns:
            Its loss, the projector's learning rate, and in how many processes a signal to stop had come. The loss of a
            self-critical step is the negative mean CIDEr of the model's captions.
        """
        setup, progress = self.setup, self.progress
        micro_batches, weight, reward = loaded.micro_batches, loaded.weight, None
        if progress.step == setup.phases.self_critical_start:  # losses of two kinds are not averaged
            progress.window_loss = progress.window_weight = 0.0
        if setup.self_critical is not None and setup.phases.is_self_critical(progress.step):
            micro_batches, weight, reward = setup.self_critical.step(loaded.step, micro_batches)
        factor = setup.phases.learning_rate_factor(progress.step)
        learning_rates = set_learning_rates(setup.optimizer, factor)
        numbers = [float(bool(self.signals)), *([] if reward is None else [reward])]
        result = self.train_step.step(setup.optimizer, micro_batches, weight, self.options.max_grad_norm, numbers)
        stops, *mean_reward = result.summed
        loss = -mean_reward[0] if mean_reward else result.loss
        if result.non_finite:
            self._handle_non_finite(result.non_finite)
        else:
            self.consecutive_skips = 0
            progress.add_loss(loss, weight)
        progress.step += 1
        progress.epoch_step += 1
        every = self.options.validate_every
        progress.validation_due = every is not None and (progress.step % every == 0 or progress.step == setup.steps)
        return loss, learning_rates["projector"], stops

    def _refresh_features(self) -> None:
        """Let the loaders find the features that were kept since the last time."""
        if self.features is not None:
            self.features.refresh()

    def _encoding_left(self) -> float:
        """Estimated seconds of encoding pictures that are not in the feature cache yet."""
        if self.features is None or not self.features.kept:
            return 0.0
        return self.features.expected * self.train_step.encode_seconds / self.features.kept

    def _handle_non_finite(self, names: list[str]) -> None:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        what = f"the loss or its gradient is not finite at step {self.progress.step + 1}, pictures {shown}"
        self.consecutive_skips += 1
        if self.options.on_non_finite == "stop" or self.consecutive_skips == MAX_CONSECUTIVE_SKIPS:
            self.state.save()
            raise ImageCapError(
                f"{what}: lower --learning_rate, look at these pictures and captions, or go on without the step by "
                "--resume --on_non_finite skip"
            )
        self.progress.skipped += 1
        print_status(f"{what}; the step is left out")

    def _end_epoch(self) -> None:
        progress = self.progress
        entry: dict[str, float] = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "train_loss": progress.epoch_mean_loss,
        }
        if self.options.validate_every is None and self.setup.validation_plan.samples:
            self.state.save()  # a process that is killed in the validation does not lose the epoch
            entry |= self._validate()
        self.report.losses(progress, entry)
        progress.next_epoch()
        self.state.save()
        self.state.leave_if_stopped()

    def _validate_if_due(self) -> None:
        """Make the validation of `validate_every`."""
        if self.progress.validation_due:
            found = self._validate()
            self.progress.validation_due = False
            self.report.losses(self.progress, {"step": self.progress.step, **found})

    def _validate(self) -> dict[str, float]:
        """Validate, each process its share, and keep the weights if they are the best so far.

        If a signal interrupts it, the run validates again when it is resumed.
        """
        self._refresh_features()
        found = self.validator.validate()
        if self.options.best_by is None:
            return found
        first = self.group.rank == 0
        if self.best.is_better(found, self.progress.step) and (first or self.setup.sharded):
            save_best(self.folder, self.setup.key, self.setup.weights, writes=first)
        if self.best.patience_exhausted:
            print_status(f"{self.options.patience} validations without a better {self.options.best_by}: that is enough")
        return found

    def _finish(self) -> TrainSummary:
        """Write what the run is for, and return its summary."""
        setup, progress, last = self.setup, self.progress, last_losses(self.progress.history)
        for weight in setup.weights.values():
            weight.requires_grad_(True)
        trainable, total = count_parameters(self.model)
        metrics = last
        if self.options.best_by is not None:
            metrics = losses_at(progress.history, int(progress.best["step"]))
        summary = TrainSummary(
            steps=progress.step,
            epochs=progress.epoch,
            images=len(setup.plan.samples),
            captions=setup.plan.captions_per_epoch,
            validation_images=len(setup.validation_plan.samples),
            train_loss=metrics["train_loss"],
            val_loss=metrics.get("val_loss"),
            val_CIDEr=metrics.get("val_CIDEr"),
            best_step=int(progress.best["step"]) if progress.best else None,
            seconds=self.state.seconds,
            captions_per_second=self.meter.captions_per_second,
            data_wait_share=self.meter.data_wait_share,
            encode_seconds=self.train_step.encode_seconds,
            peak_memory_bytes=peak_memory(self.model.device),
            trainable_parameters=trainable,
            total_parameters=total,
            skipped_steps=progress.skipped,
            device=self.model.device.type,
            dtype=str(setup.dtype).removeprefix("torch."),
        )
        if setup.sharded:
            self._write(summary, last, metrics)
            self.group.barrier()
        else:
            self.state.interruptible(lambda: self._write(summary, last, metrics))  # the other processes wait for it
        if self.group.rank == 0:
            remove_state(self.folder)
        print_status(f"trained in {format_duration(summary.seconds)}: {self.output / 'final'}")
        return summary

    def _write(self, summary: TrainSummary, last: dict[str, float], metrics: dict[str, float]) -> None:
        """Write the checkpoints and the summary."""
        setup = self.setup
        names = {*type(self.options).model_fields, *(() if setup.key["mix"] is None else ("mix",))}
        recorded = {name: value for name, value in setup.key.items() if name in names}
        facts = {**describe(setup.plan.samples), "data_hash": setup.data_digest, "settings": recorded}
        # The state is on the disk. Gradients and moments make room for weights that are converted while writing.
        setup.optimizer.zero_grad(set_to_none=True)
        setup.optimizer.state.clear()
        release_freed_memory()
        with memory_errors_of_saving():
            if self.options.best_by is not None:
                self._save("last", facts, last)
                if setup.sharded:
                    scatter_best(self.group, self.folder, setup.key, setup.weights)
                else:
                    load_best(self.folder, setup.key, setup.weights)
            self._save("final", facts, metrics)
        finish(self.model)
        if self.group.rank:
            return
        write_history(self.progress.history, self.output)
        write_summary(summary, self.output)

    def _save(self, name: str, facts: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write a checkpoint in the main process, for which the others give their parts of a sharded model."""
        if self.group.rank == 0:
            save_checkpoint(self.model, self.output / name, facts, metrics)
        else:
            with self.group.communicating():
                WeightFiles(self.model.llava, torch.float32).take_part()
