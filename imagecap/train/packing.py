"""Sequence packing: all captions of a picture are in one row and share its image tokens and prompt.

A row is a tree in depth-first order. The root is the image, each distinct prompt is a child of the root, and each
caption is a child of its prompt. A token attends to itself and to the earlier tokens on its path from the root. Usually
all captions have the same prompt:

    image tokens | prompt | caption 1 | caption 2 | caption 3        keys that a token attends to
    i i i i i i    p p      a a a       b b b b     c c              a: i, p, earlier a's;  b: i, p, earlier b's

The position ids of each caption continue those of its prompt, as if it were the only caption. The last token of the
prompt predicts the first token of each of its captions, so its hidden state is gathered once per caption. EOS is a
label but not an input. Loss and gradients equal those of one row per caption (in float64 to 1e-15), but the image
tokens, which are most of the work, are computed once. Molmo is trained on such message trees (Deitke et al. 2024,
arXiv:2409.17146).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imagecap.model.vocabulary import require_known_tokens

SHARED = -1  # number of prompt or caption of tokens that all prompts, or all captions of a prompt, share
PADDING = -2  # number of prompt and caption of padding tokens


@dataclass(frozen=True)
class Branch:
    """Token ids of one caption and its prompt.

    Attributes:
        prompt: token ids between the image tokens and the caption.
        caption: token ids of the caption, EOS included.
    """

    prompt: tuple[int, ...]
    caption: tuple[int, ...]


@dataclass(frozen=True)
class PackedRows:
    """A batch of packed rows, one per picture; all tensors are on the same device.

    Attributes:
        ids: token ids, `[pictures, tokens]`; image tokens are placeholders.
        positions: position ids, `[pictures, tokens]`.
        prompts: number of a token's prompt within the row, `[pictures, tokens]`; `SHARED` for image tokens and those
            before them, `PADDING` for padding.
        captions: number of a token's caption within the row, `[pictures, tokens]`; `SHARED` for tokens of image and
            prompt, `PADDING` for padding.
        label_positions: for each label, the index of the token whose hidden state predicts it, in the flattened
            `[pictures * tokens]`. `[labels]`
        labels: token ids to predict, caption by caption, `[labels]`.
        label_captions: for each label, the number of its caption within the batch, `[labels]`.
        image_start: index of the first image token in every row.
    """

    ids: Tensor
    positions: Tensor
    prompts: Tensor
    captions: Tensor
    label_positions: Tensor
    labels: Tensor
    label_captions: Tensor
    image_start: int

    def to(self, device: torch.device) -> "PackedRows":
        """A copy on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedRows":
        """A copy in pinned memory, from which a GPU copies asynchronously."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PackedRows":
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedRows(**changed, image_start=self.image_start)

    def require_known_tokens(self, size: int) -> None:
        """Check token ids and labels of rows on the CPU against the number of tokens of the language model.

        Raises:
            ImageCapError: the language model does not have one of them.
        """
        for ids in (self.ids, self.labels):
            smallest, largest = ids.aminmax()
            require_known_tokens((int(smallest), int(largest)), size, "a caption")

    def weights(self, weighting: str) -> Tensor:
        """Weights of the labels in the loss, `[labels]`.

        Args:
            weighting: the unit whose labels have a total weight of 1: "token", "caption" or "picture".
        """
        weights = torch.ones(len(self.labels), dtype=torch.float64)
        if weighting == "token":
            return weights
        weights /= torch.bincount(self.label_captions)[self.label_captions]
        if weighting == "caption":
            return weights
        pictures = self.label_positions // self.ids.shape[1]
        # The labels of a caption have a total weight of 1, so the sum over a picture is its number of captions.
        captions = weights.new_zeros(len(self.ids)).index_add_(0, pictures, weights)
        return weights / captions.round()[pictures]

    def attention_mask(self) -> Tensor:
        """The tree attention mask `[pictures, 1, tokens, tokens]`: True where a query (row) attends to a key (column).

        A token attends to itself and to the earlier tokens of its image, prompt and caption. Padding attends to the
        image and to earlier padding. Only padding attends to padding, and its hidden states are not used.
        """
        tokens = self.ids.shape[1]
        order = torch.arange(tokens, device=self.ids.device)
        causal = order[:, None] >= order[None, :]
        key_prompt, key_caption = self.prompts[:, None, :], self.captions[:, None, :]
        same_caption = (key_caption == SHARED) | (key_caption == self.captions[:, :, None])
        related = (key_prompt == SHARED) | ((key_prompt == self.prompts[:, :, None]) & same_caption)
        return (related & causal)[:, None]


def first_within(branches: Sequence[Branch], prefix: int, limit: int | None) -> list[Branch]:
    """The first captions of a picture that together make a row of at most `limit` tokens; at least one.

    Args:
        branches: captions of a picture, at least one.
        prefix: number of tokens before the prompt.
        limit: largest number of tokens of a row; None: all captions.
    """
    tokens, prompts = prefix, set[tuple[int, ...]]()
    for number, branch in enumerate(branches):
        tokens += len(branch.caption) - 1 + (0 if branch.prompt in prompts else len(branch.prompt))
        prompts.add(branch.prompt)
        if number and limit is not None and tokens > limit:
            return list(branches[:number])
    return list(branches)


def pack(
    rows: Sequence[Sequence[Branch]], before: Sequence[int], image_id: int, image_tokens: int | Sequence[int]
) -> PackedRows:
    """Pack the captions of each picture into one row; rows are padded to the longest one.

    Args:
        rows: the captions of each picture, at least one each.
        before: token ids before the image tokens, such as BOS.
        image_id: id of the image placeholder token.
        image_tokens: number of image tokens of a picture, or of each of the pictures.
    """
    counts = [image_tokens] * len(rows) if isinstance(image_tokens, int) else image_tokens
    prefixes = [[*before, *[image_id] * count] for count in counts]
    trees: list[dict[tuple[int, ...], list[tuple[int, ...]]]] = []  # captions of each prompt
    for branches in rows:
        trees.append({})
        for branch in branches:
            trees[-1].setdefault(branch.prompt, []).append(branch.caption)
    width = max(
        len(prefix)
        + sum(len(prompt) + sum(len(caption) - 1 for caption in captions) for prompt, captions in tree.items())
        for prefix, tree in zip(prefixes, trees, strict=True)
    )
    ids = np.full((len(trees), width), image_id)
    positions = np.zeros_like(ids)
    prompt_numbers = np.full_like(ids, PADDING)
    caption_numbers = np.full_like(ids, PADDING)
    order = np.arange(width)
    label_positions: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []  # of the captions of the batch, in labels
    for index, (prefix, tree) in enumerate(zip(prefixes, trees, strict=True)):
        end = len(prefix)
        ids[index, :end], positions[index, :end] = prefix, order[:end]
        prompt_numbers[index, :end] = caption_numbers[index, :end] = SHARED
        caption_number = 0  # in the row
        for group, (prompt, captions) in enumerate(tree.items()):
            first, end = end, end + len(prompt)
            start = len(prefix) + len(prompt)  # position id of the first token of each caption
            ids[index, first:end], positions[index, first:end] = prompt, order[len(prefix) : start]
            caption_numbers[index, first:end] = SHARED
            # with an empty prompt, the last image token predicts the first token of a caption
            last = end - 1 if prompt else len(prefix) - 1
            for caption in captions:
                inputs = caption[:-1]
                begin, end = end, end + len(inputs)
                ids[index, begin:end], positions[index, begin:end] = inputs, order[start : start + len(inputs)]
                caption_numbers[index, begin:end] = caption_number
                label_positions += [index * width + last, *range(index * width + begin, index * width + end)]
                labels += caption
                lengths.append(len(caption))
                caption_number += 1
            prompt_numbers[index, first:end] = group
    return PackedRows(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        prompts=torch.from_numpy(prompt_numbers),
        captions=torch.from_numpy(caption_numbers),
        label_positions=torch.from_numpy(np.array(label_positions)),
        labels=torch.from_numpy(np.array(labels)),
        label_captions=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        image_start=len(before),
    )
