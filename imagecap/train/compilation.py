"""torch.compile of the transformer blocks, for the length of a training step.

Only the blocks are compiled. They are alike, so one compilation serves all of them. Rows differ in length, so shapes
are dynamic from the start; torch compiles a batch of one picture separately. Captions generated in training use
uncompiled blocks: `generate.compiled_decoder` compiles models that are opened to caption.
"""

from typing import Any

import torch
import torch._dynamo
from torch import nn

from imagecap.errors import ImageCapError, one_line
from imagecap.model.ahead_of_time import compilation_advice
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.language_model.utils import transformer_blocks
from imagecap.model.vision_encoder.clip_encoder import tower_blocks

# All blocks share one compiled function, which is specialized for encoder or language model, frozen or not, with
# gradients or not, one picture or several. Above the limit torch runs blocks uncompiled without a warning.
RECOMPILE_LIMIT = 64


def compiled_blocks(model: ImageCaptioner, *, encoder: bool) -> list[tuple[nn.Module, Any]]:
    """Blocks of the language model, each with its compiled `forward`; with `encoder` those of the vision encoder too.

    They compile when they first run. The modules stay as they are: see `lean.replaced`.

    Raises:
        ImageCapError: torch.compile does not work here, most likely for want of a compiler.
    """
    _require_compiler(model.device)
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    blocks = [*transformer_blocks(model.language_model), *(tower_blocks(model.vision_tower) if encoder else [])]
    return [(block, torch.compile(block.forward, dynamic=True)) for block in blocks]


def _require_compiler(device: torch.device) -> None:
    """Compile and run a trivial function, so that a missing compiler is reported before the training starts."""

    def shifted(values: torch.Tensor) -> torch.Tensor:
        return values.sin() + 1

    try:
        torch.compile(shifted)(torch.ones(8, device=device))
    except Exception as error:  # no compiler, no headers, no Triton, no torch.compile for this Python: no common base
        raise ImageCapError(
            f"compile: torch.compile does not work on {device.type} here ({one_line(error)}): "
            f"{compilation_advice(error)}"
        ) from error
