"""Splitting a micro-batch by tokens, so that the memory of a forward and backward pass is bounded (`batch_tokens`).

The memory of a pass grows with its tokens, padding included. A micro-batch with more tokens than the limit is computed
in several passes, of which each has rows of about equal length. The captions of a picture whose row alone exceeds the
limit are parted into several rows; its image tokens are then computed several times. Every label keeps its weight and
sees the same tokens, so that the losses and gradients of the passes add up to those of the micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagecap.model.tiles.tiled import Pixels
from imagecap.train.loader import MicroBatch
from imagecap.train.packing import PADDING, SHARED, PackedRows


def split_by_tokens(batch: MicroBatch, limit: int) -> list[MicroBatch]:
    """Split a micro-batch into passes of at most `limit` tokens, padding included.

    A single caption that exceeds the limit with its image and prompt is a pass of its own. If no label has a weight,
    only the first pass is returned: the others would compute zeros as well.

    Args:
        batch: the micro-batch.
        limit: largest number of tokens of a pass.
    """
    parts = sorted(_row_parts(batch.rows, limit), key=lambda part: -part.tokens)  # stable: the order is reproducible
    passes: list[list[_RowPart]] = []
    for part in parts:
        if passes and (len(passes[-1]) + 1) * passes[-1][0].tokens <= limit:
            passes[-1].append(part)
        else:
            passes.append([part])
    if not batch.weights.any():
        del passes[1:]
    return [_select(batch, chosen) for chosen in passes]


@dataclass(frozen=True)
class _RowPart:
    """A row, or some of its captions, as a row of its own.

    Attributes:
        row: index of the row.
        columns: the chosen tokens of the row, in order.
        labels: the labels of the chosen captions.
    """

    row: int
    columns: NDArray[np.int64]
    labels: slice

    @property
    def tokens(self) -> int:
        return len(self.columns)


def _row_parts(rows: PackedRows, limit: int) -> list[_RowPart]:
    """Each row that has at most `limit` tokens, and parts of the others with as many captions as the limit allows."""
    prompts, captions = rows.prompts.numpy(), rows.captions.numpy()
    lengths = np.bincount(rows.label_captions.numpy())  # in labels
    ends = np.cumsum(lengths)
    first_positions = rows.label_positions.numpy()[ends - lengths]
    row_of_caption = first_positions // prompts.shape[1]
    # `SHARED` where the prompt is empty
    prompt_of_caption = prompts.ravel()[first_positions]
    parts = []
    for row in range(len(prompts)):
        own = np.flatnonzero(row_of_caption == row)
        prefix = int((prompts[row] == SHARED).sum())
        is_prompt = (captions[row] == SHARED) & (prompts[row] != SHARED)
        first, tokens, before = int(own[0]), prefix, None
        cuts = [first]
        for caption in own.tolist():
            prompt = prompt_of_caption[caption]
            alone = int(lengths[caption]) - 1 + int((is_prompt & (prompts[row] == prompt)).sum())
            more = int(lengths[caption]) - 1 if prompt == before else alone
            if caption > first and tokens + more > limit:
                cuts.append(caption)
                first, tokens, more = caption, prefix, alone
            tokens, before = tokens + more, prompt
        for start, end in zip(cuts, [*cuts[1:], int(own[-1]) + 1], strict=True):
            chosen = prompts[row] == SHARED
            chosen |= is_prompt & np.isin(prompts[row], prompt_of_caption[start:end])
            chosen |= (captions[row] >= start - own[0]) & (captions[row] < end - own[0])
            parts.append(_RowPart(row, np.flatnonzero(chosen), slice(int(ends[start] - lengths[start]), ends[end - 1])))
    return parts


def _select(batch: MicroBatch, parts: Sequence[_RowPart]) -> MicroBatch:
    """The micro-batch of some parts of rows, the longest of them first."""
    rows = batch.rows
    old_width, width = rows.ids.shape[1], parts[0].tokens
    columns = np.zeros((len(parts), width), np.int64)
    padding = np.ones(columns.shape, bool)
    positions, label_captions, captions = [], [], 0
    for number, part in enumerate(parts):
        columns[number, : part.tokens] = part.columns
        padding[number, : part.tokens] = False
        old = rows.label_positions[part.labels].numpy() - part.row * old_width
        positions.append(number * width + np.searchsorted(part.columns, old))
        owners = rows.label_captions[part.labels]
        label_captions.append(owners - owners[0] + captions)
        captions = int(label_captions[-1][-1]) + 1
    places = [part.row for part in parts]
    gathered, padded = torch.from_numpy(columns), torch.from_numpy(padding)

    def gather(values: Tensor) -> Tensor:
        return values[places].gather(1, gathered)

    return MicroBatch(
        pictures=[batch.pictures[place] for place in places],
        names=[batch.names[place] for place in places],
        digests=[batch.digests[place] for place in places],
        rows=PackedRows(
            ids=gather(rows.ids),
            positions=gather(rows.positions).masked_fill_(padded, 0),
            prompts=gather(rows.prompts).masked_fill_(padded, PADDING),
            captions=gather(rows.captions).masked_fill_(padded, PADDING),
            label_positions=torch.from_numpy(np.concatenate(positions)),
            labels=torch.cat([rows.labels[part.labels] for part in parts]),
            label_captions=torch.cat(label_captions),
            image_start=rows.image_start,
        ),
        weights=torch.cat([batch.weights[part.labels] for part in parts]),
        cached=_rows_of(*batch.cached, places),
        uncached=_rows_of(*batch.uncached, places),
    )


def _rows_of(rows: list[int], values: Pixels | None, places: Sequence[int]) -> tuple[list[int], Pixels | None]:
    """What `MicroBatch.cached` or `uncached` holds of the rows at `places`, which are numbered anew."""
    index = {row: number for number, row in enumerate(rows)}
    chosen = [number for number, place in enumerate(places) if place in index]
    if values is None or not chosen:
        return [], None
    return chosen, values[[index[places[number]] for number in chosen]]
