"""The training loop: read the plan, make the features, step, validate, save, sum up."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from imagecap.config import Settings
from imagecap.data.identity import training_digest
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError
from imagecap.locks import exclusive
from imagecap.model.compute import resolve_device, resolve_dtype
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.encoding import features_of
from imagecap.train.engine import Engine, checkpoint_blocks, memory_errors, shrink_frozen
from imagecap.train.finish import (
    last_losses,
    losses_at,
    parameters,
    save_copy,
    save_whole,
    write_history,
    write_summary,
)
from imagecap.train.forward import check_tree_mask
from imagecap.train.loader import Loader, Micro
from imagecap.train.optimizer import build_optimizer, set_learning_rates
from imagecap.train.plan import Plan, Step, check_lengths, describe
from imagecap.train.processes import Group, joined
from imagecap.train.progress import Meter, Reporter, RunLog, Stopwatch, bar, clock, say
from imagecap.train.self_critical import SelfCritical
from imagecap.train.signals import Stop, stop_signals
from imagecap.train.stages import Stages
from imagecap.train.state import (
    STATE_FILE,
    Progress,
    load_best,
    load_state,
    remove_state,
    run_key,
    save_best,
    save_state,
    trained,
)
from imagecap.train.summary import TrainSummary, peak_memory
from imagecap.train.validation import Best, Validator

SKIPS_IN_A_ROW = 10  # a run that only skips learns nothing


def train(
    settings: Settings,
    model: ImageCaptioner,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    *,
    state_folder: Path,
    log: RunLog | None = None,
) -> TrainSummary:
    """Train `model` in place and write `final/`, `train_summary.json` and `history.jsonl` under `output_dir`.

    The state of an interrupted run is kept in `state_folder` and removed when the run is complete; the cache of
    features stays there for the next one.

    Raises:
        ImageCapError: nothing to train on, a state of another run, no room on the disk, out of memory, a non-finite
            loss, or a language model that cannot be trained this way.
        SystemExit: Ctrl-C (status 130) or SIGTERM (143) came, and the state is saved.
    """
    require_pictures(training)
    state_folder = Path(state_folder)
    with ExitStack() as stack:
        group = stack.enter_context(joined(resolve_device(settings.compute)))
        if group.rank == 0:
            stack.enter_context(exclusive(state_folder / "lock", f"training in {state_folder}"))
        stop = stack.enter_context(stop_signals())
        stack.enter_context(memory_errors(settings.train.batch_size))
        return _Run(settings, model, training, validation, state_folder, log, stop, group).all()


def require_pictures(training: Sequence[Sample]) -> None:
    """Raise an ImageCapError if there is nothing to train on."""
    if not training:
        raise ImageCapError("there are no training pictures: see the `split` column of captions.json, or add pictures")


class _Run:
    def __init__(
        self,
        settings: Settings,
        model: ImageCaptioner,
        training: Sequence[Sample],
        validation: Sequence[Sample],
        folder: Path,
        log: RunLog | None,
        stop: Stop,
        group: Group,
    ) -> None:
        self.settings, self.options, self.folder = settings, settings.train, folder
        self.stop, self.group = stop, group
        self.watch, self.meter = Stopwatch(), Meter()
        device = resolve_device(settings.compute)
        self.dtype = resolve_dtype(settings.compute, device)
        if model.dtype in {torch.bfloat16, torch.float16}:
            model.float()  # updates are too small for these types; `dtype` is that of the products
        self.model = model.to(device).eval()  # dropout off: the captions of a picture share its hidden states
        self.training = list(training)[: self.options.max_samples]
        self.plan = Plan(model, self.training, self.options, group.size)
        self.held_out = Plan(model, list(validation)[: self.options.validation_pictures], self.options)
        if self.options.best_by is not None and not self.held_out.samples:
            raise ImageCapError("best_by needs validation pictures: set validation_fraction, or a `split` of val")
        check_lengths(model, [self.plan, self.held_out])
        check_tree_mask(model, self.dtype)
        self.steps = self.plan.steps_per_epoch() * self.options.num_epochs
        self.output = Path(self.options.output_dir)
        self.data_hash = training_digest([*self.training, *self.held_out.samples])
        self.key = run_key(settings, model, self.data_hash, self.dtype)
        self.engine = Engine(model, self.dtype, group, compiled=settings.compute.compile)
        self.weights = trained(model)
        self.stages = Stages(self.options, self.weights, self.plan.steps_per_epoch())
        self.optimizer = build_optimizer(model, self.options)
        self.progress = self._start()
        self.best = Best(self.options, self.progress.best)
        self.report = Reporter(self.steps, self.options, log)
        self.seconds_before = self.progress.seconds
        if self.progress.scaler:
            self.engine.scaler.load_state_dict(self.progress.scaler)
        shrink_frozen(model, self.dtype)
        if self.options.gradient_checkpointing:
            checkpoint_blocks(model)
        self.skips_in_a_row = 0

    def _start(self) -> Progress:
        there = (self.folder / STATE_FILE).exists()
        if not self.options.resume:
            if there:
                say(f"starting anew; the interrupted run in {self.folder} would have gone on with --resume")
            return Progress()
        progress = load_state(self.folder, self.key, self.weights, self.optimizer)
        if progress is None:
            say(f"nothing to resume in {self.folder}; starting from the beginning")
            return Progress()
        say(f"going on after step {progress.step} of {self.steps}")
        return progress

    def all(self) -> TrainSummary:
        """The whole run; see `train`."""
        self._announce()
        self.watch.lap()  # setting up is not encoding
        plans, pixels = [self.plan, self.held_out], self.settings.data.max_image_pixels
        cache = features_of(self.engine, self.folder / "features", plans, self.settings, self.stop)
        if self.stop:
            self._leave()
        encoded = self.watch.lap() if cache is not None else 0.0
        loader = Loader(self.model, self.plan, cache, pixels, self.group)
        if self.options.cider_epochs:
            self.critic = SelfCritical(self.engine, loader)
        self.validator = Validator(self.engine, Loader(self.model, self.held_out, cache, pixels), self.options)
        while self.progress.epoch < self.options.num_epochs and not self.best.given_up:
            self.stages.choose_weights(self.progress.epoch)
            self.engine.spread()
            self._epoch(loader)
        return self._finish(encoded)

    def _announce(self) -> None:
        trainable, total = parameters(self.model)
        processes = "" if self.group.size == 1 else f" in {self.group.size} processes"
        say(
            f"training {trainable:,} of {total:,} weights on {len(self.training)} pictures with {self.plan.captions} "
            f"captions; {self.steps} steps on {self.model.device.type}{processes} in "
            f"{str(self.dtype).removeprefix('torch.')}"
        )

    def _epoch(self, loader: Loader) -> None:
        """The rest of the epoch under way, unless validation says that it is enough."""
        progress = self.progress
        steps = self.plan.epoch(progress.epoch, progress.epoch_step)
        self.watch.lap()
        with bar(f"epoch {progress.epoch + 1}/{self.options.num_epochs}", self.steps, "step", progress.step) as shown:
            for step, micro_steps in loader.steps(steps):
                waited = self.watch.lap()
                loss, rate = self._update(step, micro_steps)
                self.meter.add(waited + self.watch.lap(), waited, step.captions)
                shown.update()
                shown.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                self.report.step(progress, rate, self.meter)
                every = self.options.validate_every
                if every is not None and (progress.step % every == 0 or progress.step == self.steps):
                    self.report.losses(progress, {"step": progress.step, **self._validate()})
                    if self.best.given_up:
                        break
                if self.group.largest(int(bool(self.stop))):
                    self._save()
                    self._leave()
                if progress.step % self.options.save_every == 0:
                    self._save()
                self.watch.lap()
        self._end_epoch()

    def _update(self, step: Step, micro_steps: list[Micro]) -> tuple[float, float]:
        """One update; counts it, and handles what is not finite. Returns its loss and the projector's rate.

        Where the model learns from its own captions, the loss is their mean CIDEr, negative.
        """
        progress, weight = self.progress, self.plan.weight(step)
        by_reward, reward = self.stages.by_reward(progress.step), 0.0
        if progress.step == self.stages.last:  # one kind of loss is not averaged with the other
            progress.window_loss = progress.window_weight = 0.0
        if by_reward:
            micro_steps, weight, reward = self.critic.step(step, micro_steps)
        rates = set_learning_rates(self.optimizer, self.stages.rate_factor(progress.step))
        update = self.engine.update(self.optimizer, micro_steps, weight, self.options.max_grad_norm)
        loss = -reward if by_reward else update.loss
        if update.bad:
            self._not_finite(update.bad)
        else:
            self.skips_in_a_row = 0
            progress.epoch_loss += loss * weight
            progress.epoch_weight += weight
            progress.window_loss += loss * weight
            progress.window_weight += weight
        progress.step += 1
        progress.epoch_step += 1
        return loss, rates["projector"]

    def _not_finite(self, names: list[str]) -> None:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        what = f"the loss or its gradient is not finite at step {self.progress.step + 1}, pictures {shown}"
        self.skips_in_a_row += 1
        if self.options.on_non_finite == "stop" or self.skips_in_a_row == SKIPS_IN_A_ROW:
            self._save()
            raise ImageCapError(
                f"{what}: lower --learning_rate, look at these pictures and captions, or go on without the step by "
                "--resume --on_non_finite skip"
            )
        self.progress.skipped += 1
        say(f"{what}; the step is left out")

    def _end_epoch(self) -> None:
        progress = self.progress
        train_loss = progress.epoch_loss / progress.epoch_weight if progress.epoch_weight else float("nan")
        entry: dict[str, float] = {"step": progress.step, "epoch": progress.epoch + 1, "train_loss": train_loss}
        if self.options.validate_every is None:
            entry |= self._validate()
        self.report.losses(progress, entry)
        progress.epoch, progress.epoch_step, progress.epoch_loss, progress.epoch_weight = (
            progress.epoch + 1,
            0,
            0.0,
            0.0,
        )
        self._save()
        if self.group.largest(int(bool(self.stop))) and progress.epoch < self.options.num_epochs:
            self._leave()

    def _validate(self) -> dict[str, float]:
        """Judge the weights as they are, and keep them if they are the best so far."""
        found = self.group.from_first(self.validator.judge() if self.group.rank == 0 else {})
        if self.options.best_by is None:
            return found
        if self.best.better(found, self.progress.step) and self.group.rank == 0:
            save_best(self.folder, self.key, self.weights)
        if self.best.given_up:
            say(f"{self.options.patience} validations without a better {self.options.best_by}: that is enough")
        return found

    def _save(self) -> None:
        if self.group.rank:
            return
        self.progress.seconds = self.seconds_before + self.watch.total
        self.progress.scaler = self.engine.scaler.state_dict()
        save_state(self.folder, self.key, self.progress, self.weights, self.optimizer)
        write_history(self.progress.history, self.output)

    def _leave(self) -> None:
        kept = "its state is saved" if (self.folder / STATE_FILE).exists() else "encoded pictures are kept"
        say(f"stopped after step {self.progress.step} of {self.steps}; {kept}: the same command with --resume goes on")
        raise SystemExit(self.stop.status)

    def _finish(self, encode_seconds: float) -> TrainSummary:
        progress, last = self.progress, last_losses(self.progress.history)
        for weight in self.weights.values():
            weight.requires_grad_(True)
        trainable, total = parameters(self.model)
        metrics = last
        if self.options.best_by is not None:
            metrics = losses_at(progress.history, int(progress.best["step"]))
        summary = TrainSummary(
            steps=progress.step,
            epochs=progress.epoch,
            images=len(self.training),
            captions=sum(step.captions for step in self.plan.epoch(0)),
            validation_images=len(self.held_out.samples),
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
            dtype=str(self.dtype).removeprefix("torch."),
        )
        if self.group.rank == 0:
            facts = {**describe(self.training), "data_hash": self.data_hash, "settings": self._recorded()}
            if self.options.best_by is not None:
                save_copy(self.model, self.output / "last", facts, last)
                load_best(self.folder, self.key, self.weights)
            save_whole(self.model, self.output / "final", facts, metrics)
            write_history(progress.history, self.output)
            write_summary(summary, self.output)
            remove_state(self.folder)
            say(f"trained in {clock(summary.seconds)}: {self.output / 'final'}")
        self.group.from_first(None)  # the others end when everything is written
        return summary

    def _recorded(self) -> dict[str, object]:
        """The settings that decided what came out."""
        known = type(self.options).model_fields
        return {name: value for name, value in self.key.items() if name in known}
