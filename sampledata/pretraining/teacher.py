"""The small CLIP, with the heads and losses of its pretraining."""

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from sampledata.pretraining.listing import WORDS
from sampledata.pretraining.patch_truth import CELLS, HEADS, listing_of
from sampledata.pretraining.scenes import GRID, SIDE

LENGTH = 10.0
"""Length of a word's vector in a patch."""


def new_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A small CLIP with random weights."""
    token = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 48,
            "projection_dim": 128,
            **token,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "hidden_act": "gelu",
            "image_size": SIDE,
            "patch_size": SIDE // GRID,
            "projection_dim": 128,
        },
        projection_dim=128,
    )
    model = CLIPModel(config)
    model.set_attn_implementation("eager")  # the fused attention's backward pass is slow on a CPU at this size
    return model


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Teacher(nn.Module):
    """A CLIP with the heads that its patches are trained with."""

    spelling: Tensor

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        random = torch.randn(clip.vision_model.post_layernorm.normalized_shape[0], len(WORDS), generator=_seeded(5))
        self.register_buffer("spelling", torch.linalg.qr(random)[0].T.contiguous())
        self.heads = nn.Linear(clip.vision_model.post_layernorm.normalized_shape[0], sum(HEADS.values()))
        with torch.no_grad():
            # Small weights here would take many steps to grow: patches at unit scale, and where they are is heard.
            nn.init.normal_(clip.vision_model.embeddings.patch_embedding.weight, std=0.03)
            nn.init.normal_(clip.vision_model.embeddings.position_embedding.weight, std=0.3)

    def patches(self, pixels: Tensor) -> Tensor:
        """The second-to-last hidden states. `[images, 1 + patches, hidden]`"""
        tower = self.clip.vision_model
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return hidden

    def embed_images(self, hidden: Tensor) -> Tensor:
        """Image embeddings from the second-to-last hidden states, without gradients into these. `[images, dim]`"""
        tower = self.clip.vision_model
        last = tower.encoder.layers[-1](hidden.detach(), attention_mask=None)
        return self.clip.visual_projection(tower.post_layernorm(last[:, 0])).float()

    def read(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of each head for each patch. `[images, patches, outputs]` each"""
        parts = self.heads(hidden[:, 1:]).float().split(list(HEADS.values()), -1)
        return dict(zip(HEADS, parts, strict=True))

    def spelling_loss(self, hidden: Tensor, truth: dict[str, Tensor]) -> Tensor:
        """How far each patch is from spelling the words of its cell.

        A patch should be the sum of fixed, mutually orthogonal vectors, one for each word of the listing that the
        language model is shown, and nothing else. A projector then has little to learn, and nothing that ties a
        colour to a kind. Words that `truth` is silent about (-1) are left out.
        """
        patches = hidden[:, 1:].float()
        said = patches @ self.spelling.T
        rest = (patches - said @ self.spelling).pow(2).mean(-1)
        wanted, counts = listing_of(truth)
        error = ((said / LENGTH - wanted).pow(2) * counts).sum(-1)
        return 5 * (error + rest).mean()

    def contrastive(self, hidden: Tensor, texts: list[list[int]]) -> Tensor:
        """Symmetric contrastive loss of pictures and one caption each."""
        image = nn.functional.normalize(self.embed_images(hidden), dim=-1)
        text = nn.functional.normalize(self.embed_texts(texts), dim=-1)
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ text.T
        target = torch.arange(len(texts))
        return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2

    def embed_texts(self, texts: list[list[int]]) -> Tensor:
        """Text embeddings of token ids that end with EOS. `[texts, dim]`"""
        longest = max(len(text) for text in texts)
        ids = torch.tensor([text + text[-1:] * (longest - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
        return self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output.float()


def patch_loss(said: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Sum of the losses of all heads."""
    entropy = nn.functional.cross_entropy
    binary = nn.functional.binary_cross_entropy_with_logits
    loss = 4 * binary(said["centre"].squeeze(-1), truth["centre"])
    for name in ("kind", "colour", "cover kind", "cover colour"):
        weight = 1.0 if name in ("kind", "colour") else 0.5
        loss = loss + weight * entropy(said[name].flatten(0, 1), truth[name].long().flatten(), ignore_index=-1)
    there = truth["centre"] > 0
    loss = loss + (said["offset"][there] - truth["offset"][there]).abs().mean()
    everywhere = (-1, CELLS)
    places = truth["place"][:, None].expand(everywhere)
    loss = loss + 0.3 * entropy(said["place"].flatten(0, 1), places.flatten(), ignore_index=-1)
    lit = truth["night"] >= 0
    return loss + 0.3 * binary(said["night"][lit].squeeze(-1), truth["night"][lit, None].expand(everywhere))
