"""One row per picture: what its captions share comes once, and every caption branches off it.

A row is a tree written down depth first. The picture is its root, every different prompt a branch of it, and every
caption a branch of its prompt; usually all captions share one prompt:

    image tokens | prompt | caption 1 | caption 2 | caption 3        keys that a token sees
    i i i i i i    p p      a a a       b b b b     c c              a: i, p, earlier a's;  b: i, p, earlier b's

Positions of each caption go on after its prompt, as if it were alone. The last token of the prompt predicts the first
token of each of its captions, so its hidden state is gathered once per caption; EOS is predicted and never fed. Loss
and gradients equal those of one row per caption (in float64 to 1e-15), while the picture's tokens, most of the work,
are computed once. Message trees like this are how Molmo is trained (Deitke et al. 2024, arXiv:2409.17146).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PICTURE = -1  # the group, or the caption, of what several branches share
PADDING = -2


@dataclass(frozen=True)
class Branch:
    """A caption as ids: `prompt` is what stands between picture and caption, `caption` ends with EOS."""

    prompt: tuple[int, ...]
    caption: tuple[int, ...]


@dataclass(frozen=True)
class PackedRows:
    """Rows of pictures as the language model reads them; every tensor is on one device.

    Attributes:
        ids: `[pictures, tokens]`; those at image tokens are placeholders.
        positions: `[pictures, tokens]`.
        groups: `[pictures, tokens]`: which prompt a token belongs to, `PICTURE`, or `PADDING`.
        captions: `[pictures, tokens]`: which caption a token belongs to, `PICTURE` (shared), or `PADDING`.
        predicts: `[labels]`: indices into the flattened `[pictures * tokens]` whose hidden states predict a label.
        labels: `[labels]`: the ids to be predicted, caption by caption.
        owners: `[labels]`: the running number of the caption that a label belongs to.
        image_start: where the image tokens start in each row.
    """

    ids: Tensor
    positions: Tensor
    groups: Tensor
    captions: Tensor
    predicts: Tensor
    labels: Tensor
    owners: Tensor
    image_start: int

    def to(self, device: torch.device) -> "PackedRows":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedRows":
        """In memory from which a GPU copies without being waited for."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PackedRows":
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedRows(**changed, image_start=self.image_start)

    def weights(self, weighting: str) -> Tensor:
        """What each label counts in the loss, `[labels]`: all the same, or so that captions, or pictures, do."""
        weights = torch.ones(len(self.labels), dtype=torch.float64)
        if weighting == "token":
            return weights
        weights /= torch.bincount(self.owners)[self.owners]
        if weighting == "caption":
            return weights
        pictures = self.predicts // self.ids.shape[1]
        captions = weights.new_zeros(len(self.ids)).index_add_(0, pictures, weights)
        return weights / captions.round()[pictures]

    def visible(self) -> Tensor:
        """The tree mask, `[pictures, 1, tokens, tokens]`: True where a query (rows) sees a key (columns).

        A query sees a key that is not later and is the picture's, its own prompt's, or its own caption's. Padding is
        seen by padding only, and sees the picture, so that no row of the softmax is empty.
        """
        tokens = self.ids.shape[1]
        order = torch.arange(tokens, device=self.ids.device)
        not_later = order[:, None] >= order[None, :]
        key_group, key_caption = self.groups[:, None, :], self.captions[:, None, :]
        shared = (key_caption == PICTURE) | (key_caption == self.captions[:, :, None])
        mine = (key_group == PICTURE) | ((key_group == self.groups[:, :, None]) & shared)
        return (mine & not_later)[:, None]


def pack(rows: Sequence[Sequence[Branch]], before: Sequence[int], image_id: int, image_tokens: int) -> PackedRows:
    """Write the pictures' trees as rows, padded to the longest.

    Args:
        rows: the branches of each picture; at least one each.
        before: ids before the image tokens (BOS, if any).
        image_id: placeholder at the image tokens.
    """
    prefix = [*before, *[image_id] * image_tokens]
    columns: list[tuple[list[int], list[int], list[int], list[int]]] = []
    predicts: list[tuple[int, int]] = []  # (row, position in the row)
    labels: list[int] = []
    owners: list[int] = []
    number = 0
    for index, branches in enumerate(rows):
        ids, positions = list(prefix), list(range(len(prefix)))
        groups, captions = [PICTURE] * len(prefix), [PICTURE] * len(prefix)
        by_prompt: dict[tuple[int, ...], list[Branch]] = {}
        for branch in branches:
            by_prompt.setdefault(branch.prompt, []).append(branch)
        caption = 0
        for group, (prompt, members) in enumerate(by_prompt.items()):
            ids += prompt
            positions += range(len(prefix), len(prefix) + len(prompt))
            groups += [group] * len(prompt)
            captions += [PICTURE] * len(prompt)
            # an empty prompt leaves the prediction to the last image token
            last = len(ids) - 1 if prompt else len(prefix) - 1
            start = len(prefix) + len(prompt)
            for branch in members:
                fed = branch.caption[:-1]
                predicts += [(index, last), *((index, len(ids) + step) for step in range(len(fed)))]
                ids += fed
                positions += range(start, start + len(fed))
                groups += [group] * len(fed)
                captions += [caption] * len(fed)
                labels += branch.caption
                owners += [number] * len(branch.caption)
                caption += 1
                number += 1
        columns.append((ids, positions, groups, captions))
    width = max(len(ids) for ids, *_ in columns)
    fill = (image_id, 0, PADDING, PADDING)
    padded = [
        torch.tensor([row[part] + [fill[part]] * (width - len(row[part])) for row in columns]) for part in range(4)
    ]
    return PackedRows(
        ids=padded[0],
        positions=padded[1],
        groups=padded[2],
        captions=padded[3],
        predicts=torch.tensor([row * width + position for row, position in predicts]),
        labels=torch.tensor(labels),
        owners=torch.tensor(owners),
        image_start=len(before),
    )
