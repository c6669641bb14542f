"""The training loop: encode pictures, make optimizer steps, validate, save, write the checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from imagecap.config import Settings
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.locks import exclusive
from imagecap.model.compute import resolve_device
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.distributed import process_group
from imagecap.train.encoding import encode_pictures
from imagecap.train.loader import Loader, MicroBatch
from imagecap.train.memory import memory_errors, peak_memory
from imagecap.train.optimizer import set_learning_rates
from imagecap.train.outputs import (
    TrainSummary,
    count_parameters,
    last_losses,
    losses_at,
    save_checkpoint,
    save_intermediate_checkpoint,
    write_history,
    write_summary,
)
from imagecap.train.plan import Step, describe
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
from imagecap.train.setup import TrainingSetup, prepare_training
from imagecap.train.signals import DeferredSignals, deferred_signals
from imagecap.train.state import STATE_FILE, load_best, remove_state, save_best, save_state
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
        callback: called after every optimizer step, in the main process.

    Raises:
        ImageCapError: the training cannot be set up (see `prepare_training`), the disk is full, memory runs out, or the
            loss is not finite.
        SystemExit: Ctrl-C (status 130) or SIGTERM (143) came; the state is saved.
    """
    state_folder = Path(state_folder)
    with ExitStack() as stack:
        group = stack.enter_context(process_group(resolve_device(settings.compute)))
        if group.rank == 0:
            stack.enter_context(exclusive(state_folder / "lock", f"training in {state_folder}"))
        signals = stack.enter_context(deferred_signals())
        stack.enter_context(memory_errors(settings.train.batch_size))
        watch = Stopwatch()
        setup = prepare_training(settings, model, training, validation, state_folder, group)
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
        self.seconds_before = self.progress.seconds
        self.consecutive_skips = 0

    def run(self) -> TrainSummary:
        """The whole run; see `train`."""
        setup, pixels = self.setup, self.settings.data.max_image_pixels
        self._announce()
        self.watch.lap()  # the time of setting up does not count as encoding
        plans = [setup.plan, setup.validation_plan]
        cache = encode_pictures(self.train_step, self.folder / "features", plans, self.settings, self.signals)
        if self.signals:
            self._leave()
        encode_seconds = self.watch.lap() if cache is not None else 0.0
        loader = Loader(self.model, setup.plan, cache, pixels, self.group)
        self.validator = Validator(
            self.train_step, Loader(self.model, setup.validation_plan, cache, pixels), self.options
        )
        while self.progress.epoch < self.options.num_epochs and not self.best.patience_exhausted:
            setup.phases.select_weights(self.progress.epoch)
            self.train_step.wrap_distributed()
            self._epoch(loader)
        return self._finish(encode_seconds)

    def _announce(self) -> None:
        setup = self.setup
        trainable, total = count_parameters(self.model)
        processes = "" if self.group.size == 1 else f" in {self.group.size} processes"
        print_status(
            f"training {trainable:,} of {total:,} weights on {len(setup.plan.samples)} pictures with "
            f"{setup.plan.captions} captions; {setup.steps} steps on {self.model.device.type}{processes} in "
            f"{str(setup.dtype).removeprefix('torch.')}"
        )

    def _epoch(self, loader: Loader) -> None:
        """The rest of the current epoch, unless validation ends the training."""
        progress, options = self.progress, self.options
        steps = self.setup.plan.epoch(progress.epoch, progress.epoch_step)
        self.watch.lap()
        title = f"epoch {progress.epoch + 1}/{options.num_epochs}"
        with progress_bar(title, self.setup.steps, "step", progress.step) as bar:
            for step, micro_batches in loader.steps(steps):
                waited = self.watch.lap()
                loss, learning_rate = self._step(step, micro_batches)
                self.meter.add(waited + self.watch.lap(), waited, step.captions)
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                self.report.step(progress, loss, learning_rate, self.meter)
                every = options.validate_every
                if every is not None and (progress.step % every == 0 or progress.step == self.setup.steps):
                    self.report.losses(progress, {"step": progress.step, **self._validate()})
                    if self.best.patience_exhausted:
                        break
                if self._should_stop():
                    self._save()
                    self._leave()
                if progress.step % options.save_every == 0:
                    self._save()
                self.watch.lap()
        self._end_epoch()

    def _should_stop(self) -> bool:
        """Whether any process has received a signal to stop."""
        return bool(self.group.all_reduce_max(int(bool(self.signals))))

    def _step(self, step: Step, micro_batches: list[MicroBatch]) -> tuple[float, float]:
        """Make one optimizer step and count it; returns its loss and the projector's learning rate.

        The loss of a self-critical step is the negative mean CIDEr of the model's captions.
        """
        setup, progress = self.setup, self.progress
        weight, reward = setup.plan.weight(step), None
        if progress.step == setup.phases.self_critical_start:  # losses of two kinds are not averaged
            progress.window_loss = progress.window_weight = 0.0
        if setup.self_critical is not None and setup.phases.is_self_critical(progress.step):
            micro_batches, weight, reward = setup.self_critical.step(step, micro_batches)
        factor = setup.phases.learning_rate_factor(progress.step)
        learning_rates = set_learning_rates(setup.optimizer, factor)
        result = self.train_step.step(setup.optimizer, micro_batches, weight, self.options.max_grad_norm)
        loss = result.loss if reward is None else -reward
        if result.non_finite:
            self._handle_non_finite(result.non_finite)
        else:
            self.consecutive_skips = 0
            progress.add_loss(loss, weight)
        progress.step += 1
        progress.epoch_step += 1
        return loss, learning_rates["projector"]

    def _handle_non_finite(self, names: list[str]) -> None:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        what = f"the loss or its gradient is not finite at step {self.progress.step + 1}, pictures {shown}"
        self.consecutive_skips += 1
        if self.options.on_non_finite == "stop" or self.consecutive_skips == MAX_CONSECUTIVE_SKIPS:
            self._save()
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
        if self.options.validate_every is None:
            entry |= self._validate()
        self.report.losses(progress, entry)
        progress.next_epoch()
        self._save()
        if self._should_stop() and progress.epoch < self.options.num_epochs:
            self._leave()

    def _validate(self) -> dict[str, float]:
        """Validate in the main process, and keep the weights if they are the best so far."""
        found = self.group.broadcast(self.validator.validate() if self.group.rank == 0 else {})
        if self.options.best_by is None:
            return found
        if self.best.is_better(found, self.progress.step) and self.group.rank == 0:
            save_best(self.folder, self.setup.key, self.setup.weights)
        if self.best.patience_exhausted:
            print_status(f"{self.options.patience} validations without a better {self.options.best_by}: that is enough")
        return found

    def _save(self) -> None:
        """Save the training state, in the main process."""
        if self.group.rank:
            return
        self.progress.seconds = self.seconds_before + self.watch.total
        self.progress.scaler = self.train_step.scaler.state_dict()
        save_state(self.folder, self.setup.key, self.progress, self.setup.weights, self.setup.optimizer)
        write_history(self.progress.history, self.output)

    def _leave(self) -> NoReturn:
        kept = "its state is saved" if (self.folder / STATE_FILE).exists() else "encoded pictures are kept"
        print_status(
            f"stopped after step {self.progress.step} of {self.setup.steps}; {kept}: the same command with --resume "
            "goes on"
        )
        raise SystemExit(self.signals.exit_status)

    def _finish(self, encode_seconds: float) -> TrainSummary:
        """Write the checkpoint and the summary, and remove the training state."""
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
            captions=sum(step.captions for step in setup.plan.epoch(0)),
            validation_images=len(setup.validation_plan.samples),
            train_loss=metrics["train_loss"],
            val_loss=metrics.get("val_loss"),
            val_CIDEr=metrics.get("val_CIDEr"),
            best_step=int(progress.best["step"]) if progress.best else None,
            seconds=self.seconds_before + self.watch.total,
            captions_per_second=self.meter.captions_per_second,
            data_wait_share=self.meter.data_wait_share,
            encode_seconds=encode_seconds,
            peak_memory_bytes=peak_memory(self.model.device),
            trainable_parameters=trainable,
            total_parameters=total,
            skipped_steps=progress.skipped,
            device=self.model.device.type,
            dtype=str(setup.dtype).removeprefix("torch."),
        )
        if self.group.rank == 0:
            recorded = {name: value for name, value in setup.key.items() if name in type(self.options).model_fields}
            facts = {**describe(setup.plan.samples), "data_hash": setup.data_digest, "settings": recorded}
            if self.options.best_by is not None:
                save_intermediate_checkpoint(self.model, self.output / "last", facts, last)
                load_best(self.folder, setup.key, setup.weights)
            save_checkpoint(self.model, self.output / "final", facts, metrics)
            write_history(progress.history, self.output)
            write_summary(summary, self.output)
            remove_state(self.folder)
            print_status(f"trained in {format_duration(summary.seconds)}: {self.output / 'final'}")
        self.group.barrier()  # the other processes end when everything is written
        return summary
