"""The format of checkpoints with int8 weights, for transformers: `from_pretrained` reads them where this is imported.

`config.json` says `"quantization_config": {"quant_method": "imagecap_int8", "encoder": true}`. A layer has an int8
`weight` and a `scale` in `model.safetensors`. Plain transformers refuses the method, which it does not know.
"""

from typing import Any

from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from imagecap.model.int8 import METHOD, align_weights, replace_layers


@register_quantization_config(METHOD)
class Int8Config(QuantizationConfigMixin):
    """The entry in `config.json`.

    Args:
        encoder: whether encoder and projector have int8 weights too. Checkpoints that do not say so have not.
    """

    def __init__(self, *, encoder: bool = False, **_kwargs: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # a string, as those of other registered methods
        self.encoder = encoder


@register_quantizer(METHOD)
class Int8Quantizer(HfQuantizer):
    """Puts int8 layers into a model before its weights are read, and lets them lie where products need them."""

    def _process_model_before_weight_loading(self, model: Any, **_kwargs: Any) -> Any:
        assert isinstance(self.quantization_config, Int8Config)
        replace_layers(model, encoder=self.quantization_config.encoder)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_kwargs: Any) -> Any:
        align_weights(model)
        return model

    def is_serializable(self) -> bool:
        """Whether `save_pretrained` may write the model; `write_int8_checkpoint` does."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Whether the weights can be trained."""
        return False
