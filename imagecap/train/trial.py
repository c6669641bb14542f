"""A trial before the first step: packed rows give the hidden states that the stock model has for each caption alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from imagecap.errors import ImageCapError, one_line
from imagecap.train.forward import forward_packed
from imagecap.train.matmul_attention import MATMUL_ATTENTION
from imagecap.train.packing import Branch, pack
from imagecap.train.step import TrainStep

EXACT = 1e-2  # tolerated error of hidden states in float32, relative to the largest of them
ROUNDED = 0.25  # tolerated root-mean-square error in lower precision, in which a token may get other experts


@torch.no_grad()
def check_packed_rows(step: TrainStep, branches: Sequence[Branch]) -> None:
    """Check that the language model uses the given attention mask and position ids, and that the kernels suit it.

    Recurrent models and models with ALiBi ignore one or the other, and models whose attention reaches over a window do
    so on long rows only. On packed rows they would compute wrong hidden states without an error.

    Args:
        step: has the model, the dtype and the kernels of the training.
        branches: captions of one picture, as many and as long as in the longest row of the training.

    Raises:
        ImageCapError: the model fails, or its hidden states of the packed row differ from those of each caption alone.
    """
    model = step.model
    captions = [
        branch
        for prompt in dict.fromkeys(each.prompt for each in branches)
        for branch in branches
        if branch.prompt == prompt
    ]
    # The first, the last and the longest caption are compared.
    chosen = {0, len(captions) - 1, max(range(len(captions)), key=lambda number: len(captions[number].caption))}
    before = model.prompt_ids("").before
    # The image gets the embeddings of random tokens, which unlike those of one placeholder are all different.
    image = torch.randint(
        model.embed_tokens.num_embeddings, (model.num_image_tokens,), generator=torch.Generator().manual_seed(0)
    )
    rows = pack([captions], before, 0, len(image))
    rows.ids[0, len(before) : len(before) + len(image)] = image
    rows = rows.to(model.device)

    def embed(ids: Tensor) -> Tensor:
        return model.embed_tokens(ids).float()  # as the hidden states of training are between blocks

    def packed() -> Tensor:
        hidden = forward_packed(model.language_model, embed(rows.ids), rows)
        at_labels = hidden.flatten(0, 1).index_select(0, rows.label_positions)
        return torch.cat([at_labels[rows.label_captions == number] for number in sorted(chosen)])

    def stock() -> Tensor:
        parts = []
        for number in sorted(chosen):
            prompt, caption = captions[number].prompt, captions[number].caption
            ids = torch.tensor([[*before, *image.tolist(), *prompt, *caption[:-1]]], device=model.device)
            output = model.language_model(inputs_embeds=embed(ids), use_cache=False)
            parts.append(output.last_hidden_state[0, -len(caption) :])
        return torch.cat(parts)

    if all(weight.dtype == torch.float32 for weight in model.language_model.parameters()):
        ours, theirs = _run(step, packed), _run(step, stock)
        if not float((ours - theirs).abs().max()) <= EXACT * float(theirs.abs().max()):
            raise ImageCapError(_refusal(step, "it ignores the attention mask, or does not attend to the whole row"))
    if step.dtype != torch.float32:
        with step.autocast():
            theirs = _run(step, stock)
            # Blocks that torch compiles are not tried: compiling them for this takes minutes.
            with step.kernels() if step.attention_kernel == MATMUL_ATTENTION else nullcontext():
                ours = _run(step, packed)
        if not float((ours - theirs).square().mean()) <= ROUNDED**2 * float(theirs.square().mean()):
            raise ImageCapError(
                _refusal(step, f"it computes something else in {str(step.dtype).removeprefix('torch.')}")
            )


def _run(step: TrainStep, compute: Callable[[], Tensor]) -> Tensor:
    try:
        return step.computed(compute).float()
    except Exception as error:  # models that lack these arguments raise different types of errors
        raise ImageCapError(_refusal(step, f"it takes no such mask or positions: {one_line(error)}")) from error


def _refusal(step: TrainStep, why: str) -> str:
    kind = step.model.llava.config.text_config.model_type
    return (
        f"language models of type {kind} cannot train on captions that share their picture ({why}); "
        "use one with plain attention and rotary or learned positions (Qwen, Llama, Mistral, GPT-2, …)"
    )
