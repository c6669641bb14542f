"""The peer of the training benchmarks: transformers' `Trainer` on a stock LLaVA model, as its documentation shows.

Every caption is an example of its own: picture, prompt and caption go through the processor, and the labels of all
tokens but the caption's are -100.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagecap.data.images import load_image
from imagecap.data.locations import Location

PROMPT = "Describe this image."


@dataclass(frozen=True)
class Row:
    """A training example: a picture's file and one of its captions."""

    path: Location
    caption: str


class Captions(torch.utils.data.Dataset):
    """The data set of the Trainer; a picture is decoded anew for each of its captions."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"image": load_image(row.path, 100_000_000), "caption": row.caption}


class Collator:
    """Makes a batch by the processor, with labels of -100 for the prompt and the padding.

    Args:
        processor: of the model.
        multiple: rows are padded to a multiple of so many tokens.
    """

    def __init__(self, processor: Any, multiple: int | None = None) -> None:
        self.processor, self.multiple = processor, multiple
        processor.tokenizer.padding_side = "right"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        tokenizer = self.processor.tokenizer
        prompt = f"{self.processor.image_token}{PROMPT}\n"
        texts = [f"{prompt}{row['caption']}{tokenizer.eos_token}" for row in rows]
        images = [row["image"] for row in rows]
        padding = {"padding": True, "pad_to_multiple_of": self.multiple}
        batch = self.processor(images=images, text=texts, return_tensors="pt", **padding)
        start = self.processor(images=images[:1], text=[prompt], return_tensors="pt")["input_ids"].shape[1]
        labels = batch["input_ids"].clone()
        labels[:, :start] = -100
        labels[batch["attention_mask"] == 0] = -100
        batch["labels"] = labels
        return dict(batch)


def train_stock(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    batch_size: int,
    *,
    bf16: bool,
    folder: Path,
    max_steps: int,
    learning_rate: float = 5e-5,
    compiled: bool = False,
    workers: int = 0,
    on_cpu: bool | None = None,
) -> tuple[list[float], list[float]]:
    """Train with the Trainer's defaults.

    On a GPU both the Trainer and ours synchronise once a step, to check that the loss is finite.

    Args:
        model: a stock LLaVA model.
        processor: its processor.
        rows: the training examples.
        batch_size: examples per step.
        bf16: mixed precision by autocast to bfloat16.
        folder: the Trainer's output folder.
        max_steps: steps to train.
        learning_rate: peak of the cosine schedule.
        compiled: the Trainer's `torch_compile`.
        workers: processes that decode and preprocess pictures; 0: the training process itself.
        on_cpu: train on the CPU; None: where there is no GPU.

    Returns:
        For each step the time at which it ended and how long it waited for data, in seconds.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    started = time.perf_counter()
    ends: list[float] = []
    waits: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            waits.append(time.perf_counter() - (ends[-1] if ends else started))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        max_steps=max_steps,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available() if on_cpu is None else on_cpu,
        torch_compile=compiled,
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Captions(rows),
        # Compiled for one length, the model is faster than for any, and seldom compiled again.
        data_collator=Collator(processor, 32 if compiled else None),
        callbacks=[Clock()],
    )
    trainer.train()
    return ends, waits
