"""Ahead-of-time compilation of blocks by torch.export and AOTInductor, cached on disk for the next process.

Weights are arguments of the compiled code, so that one compilation serves all blocks of the same structure, and weights
may change afterwards. Compiled blocks are machine code. For safety they are only read from this user's own cache
(`$XDG_CACHE_HOME/imagecap` or `~/.cache/imagecap`), never from a model's folder.
"""

import contextlib
import errno
import hashlib
import inspect
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.export import Dim, export

from imagecap.errors import ImageCapError, one_line
from imagecap.files import atomic_write_bytes, user_cache_folder
from imagecap.model import onednn_linear
from imagecap.model.checkpoint import quiet_transformers
from imagecap.model.onednn_linear import compiling_for_many_rows, inductor_calls_onednn

# Takes the block's weights, then its inputs, which must be contiguous; returns the outputs.
CompiledBlock = Callable[[list[Tensor]], list[Tensor]]


class _BlockFunction(nn.Module):
    """A function of a block as a module that holds the block's weights."""

    def __init__(self, block: Any, function: Callable[..., Any]) -> None:
        super().__init__()
        self.block, self.function = block, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.block, *inputs)


class _FunctionOfWeights(nn.Module):
    """A function of a block's weights and of inputs."""

    def __init__(self, block: Any, function: Callable[..., Any]) -> None:
        super().__init__()
        self.names = [f"block.{name}" for name, _ in block.named_parameters()]
        # In a tuple, so that the weights do not become parameters of this module.
        self.held = (_BlockFunction(block, function),)

    def forward(self, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        return torch.func.functional_call(self.held[0], dict(zip(self.names, weights, strict=True)), tuple(inputs))


def compile_block(
    function: Callable[..., Any],
    block: Any,
    config: Any,
    inputs: list[Tensor],
    dynamic_dimensions: list[dict[int, str]],
    *used_modules: ModuleType,
    single_threaded: bool = False,
    few_rows: bool = False,
) -> CompiledBlock:
    """Compile `function(block, *inputs)`, or load it from the cache.

    Args:
        function: a function at module level.
        block: a module without buffers.
        config: configuration of the model that the block belongs to.
        inputs: example inputs to trace with. No tensor may be passed twice. Sizes that may differ at run time must
            differ here, since torch.export takes equal sizes for the same one. Sizes should be typical, because
            Inductor chooses its loops for them.
        dynamic_dimensions: for each input, the names of its dimensions of variable size. Sizes are 1 or more, and the
            same wherever the name is the same.
        *used_modules: modules of ours, beside the function's own, whose code the function runs. The cache key depends
            on their source.
        single_threaded: leave out what lets several threads call the block at once.
        few_rows: compile for inputs of few tokens, up to 32 in all rows: every loop runs in one thread, since to share
            it out takes longer, and `OneDnnLinear` calls MKL.

    Raises:
        ImageCapError: compilation fails; says why, and what to do.
    """
    device = inputs[0].device
    environment = (torch.__version__, transformers.__version__, sys.version, _hardware(device))
    modules = (sys.modules[__name__], onednn_linear, sys.modules[function.__module__], *used_modules)
    source = [inspect.getsource(module) for module in modules]
    shapes = [(name, *weight.shape, weight.dtype) for name, weight in block.named_parameters()]
    traced = [(tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    structure = (repr(block), shapes, config.to_json_string(), config._attn_implementation, traced, few_rows)
    key = hashlib.sha256(repr((environment, source, structure)).encode()).hexdigest()
    name = function.__name__.strip("_")
    try:
        folder = user_cache_folder()
        file = folder / f"{name}-{key[:32]}.pt2"
        with contextlib.suppress(Exception):  # a damaged file is compiled anew
            if file.exists():
                return _load(file, single_threaded)
        print(f"compiling {type(block).__name__} ({name}) for this machine, once", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as work:
            path = str(Path(work) / file.name)
            package = _compile(function, block, inputs, dynamic_dimensions, path, few_rows=few_rows)
            atomic_write_bytes(file, Path(package).read_bytes())
        return _load(file, single_threaded)
    except Exception as error:  # no compiler, no headers, no Triton, no AOTInductor for this Python: no common base
        raise ImageCapError(
            f"compile: {type(block).__name__} cannot be compiled for {device.type} here ({one_line(error)}): "
            f"{compilation_advice(error)}"
        ) from error


def compilation_advice(error: Exception) -> str:
    """Return what a user can do after a failed compilation, as the end of a sentence."""
    if isinstance(error, OSError) and error.filename and error.errno != errno.ENOENT:
        return f"make {error.filename} writable (XDG_CACHE_HOME and TMPDIR say where files go), or leave it out"
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        return "install a C++ compiler (g++) and the headers of Python, or leave it out"
    return "install the headers of Python, or leave it out" if "Python.h" in str(error) else "leave it out"


def _load(file: Path, single_threaded: bool) -> CompiledBlock:
    package = torch._inductor.aoti_load_package(str(file), run_single_threaded=single_threaded)
    run: CompiledBlock = package.loader.run
    return run


def _compile(
    function: Callable[..., Any],
    block: Any,
    inputs: list[Tensor],
    dynamic_dimensions: list[dict[int, str]],
    path: str,
    *,
    few_rows: bool,
) -> str:
    weights = [weight.detach() for weight in block.parameters()]
    sizes = {name: Dim(name, min=1) for names in dynamic_dimensions for name in names.values()}
    shapes = [{dimension: sizes[name] for dimension, name in names.items()} for names in dynamic_dimensions]
    many_rows = not few_rows and inductor_calls_onednn()
    with torch.no_grad(), quiet_transformers(), warnings.catch_warnings(), compiling_for_many_rows(many_rows):
        warnings.simplefilter("ignore")
        program = export(
            _FunctionOfWeights(block, function),
            (weights, inputs),
            dynamic_shapes=([None] * len(weights), shapes),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        options = {
            # Unless it is 1, the number of threads is read at run time, not fixed at compile time.
            **({"cpp.threads": 1} if few_rows else {"cpp.dynamic_threads": True}),
            "aot_inductor.check_lowerbound": False,  # export assumes sizes of 2 or more; a test shows that 1 works too
        }
        return str(torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options))


def _hardware(device: torch.device) -> str:
    """Name the hardware that machine code depends on: the GPU, or the instruction sets of the CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("flags")), f"{platform.machine()} {platform.processor()}")


def compile_distinct(blocks: Sequence[Any], compile_one: Callable[[Any], Any]) -> list[Any]:
    """Return `compile_one(block)` for each block; blocks of the same structure share one call."""
    compiled: dict[str, Any] = {}
    structures = [f"{block!r} {[weight.shape for weight in block.parameters()]}" for block in blocks]
    for structure, block in zip(structures, blocks, strict=True):
        if structure not in compiled:
            compiled[structure] = compile_one(block)
    return [compiled[structure] for structure in structures]
