"""The peer: stock `LlavaForConditionalGeneration` and transformers' `Trainer`, as their documentation has it.

Every caption is a row of its own: picture, prompt and caption through the processor, everything but the caption
masked with -100, logits wherever the model gives them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagecap.data.images import load_image

PROMPT = "Describe this image."


@dataclass(frozen=True)
class Row:
    """A picture's file and one of its captions."""

    path: Path
    caption: str


class Captions(torch.utils.data.Dataset):
    """Rows for the Trainer; a picture is decoded whenever one of its rows comes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self.rows[place]
        return {"image": load_image(row.path, 100_000_000), "caption": row.caption}


class Collator:
    """Rows into a batch by the processor, the prompt and the padding masked in the labels."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "right"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        tokenizer = self.processor.tokenizer
        prompt = f"{self.processor.image_token}{PROMPT}\n"
        texts = [f"{prompt}{row['caption']}{tokenizer.eos_token}" for row in rows]
        images = [row["image"] for row in rows]
        batch = self.processor(images=images, text=texts, return_tensors="pt", padding=True)
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
    """Train with the Trainer's own defaults.

    On a GPU the Trainer waits for it once a step, before the optimizer's part, to see whether the loss is finite; so
    does ours.

    Args:
        rows: captions, each with its picture.
        bf16: products in bfloat16 by autocast.
        folder: for what the Trainer wants to write.
        compiled: by the Trainer's own `torch_compile`.
        workers: processes that decode and preprocess pictures; 0: the training process itself.
        on_cpu: None: only where there is no GPU.

    Returns:
        The moments at which the steps ended, in seconds, and how long each waited for its data.
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
        data_collator=Collator(processor),
        callbacks=[Clock()],
    )
    trainer.train()
    return ends, waits
