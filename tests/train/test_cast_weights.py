"""Weights that are cast once: the results are those of autocast, and the weights are as before."""

import torch
from torch import nn

from imagecap.train.cast_weights import CastWeights


def test_results_are_those_of_autocast_and_weights_stay() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    values, cast = torch.randn(3, 8), CastWeights(module, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = module(values)
        for _ in range(2):
            with cast.in_use():
                assert module[0].weight.dtype == torch.bfloat16
                assert torch.equal(module(values), expected)
            for name, value in module.state_dict().items():
                assert torch.equal(value, weights[name]), name
    with CastWeights(module, torch.float32).in_use():
        assert module[0].weight.dtype == torch.float32
