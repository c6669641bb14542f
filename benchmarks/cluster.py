"""A simulation of training on many GPUs: `python -m benchmarks.cluster`. Nothing is trained.

A step takes the arithmetic of the slowest process, and the exchange of gradients after it. The model of it:

- Arithmetic: 2 operations for each weight and token forward, as much for the gradients of hidden states, and as much
  again for those of weights that train. Attention scores, norms and the loss are in `--share`, the part of the peak
  that is reached.
- Processes differ, as their captions differ in length: times are drawn from a log-normal distribution with the
  deviation `--spread`, and all wait for the slowest.
- Gradients are float32 and summed by a ring within a node and a ring between nodes, and nothing of that is hidden
  behind the arithmetic. With `--sharded` weights are gathered twice in bfloat16, and gradients scattered once.
- In the first epoch each picture is decoded by the cores of its GPU, and encoded; both are in later epochs only for
  pictures whose features find no room in the cache of their node.

The rate of decoding is measured here, in processor time, on a JPEG of the size of a photograph. All other constants
are flags.
"""

import argparse
import io
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

GPUS = (1, 8, 64, 512)
GPUS_OF_A_NODE = 8


@dataclass(frozen=True)
class Model:
    """Sizes of a captioner; those of CLIP-B/16 with Qwen3-0.6B, two blocks of which train.

    Attributes:
        encoder: weights of the vision encoder that see every patch.
        patches: of a picture.
        width: of a patch's features.
        blocks: weights of the blocks of the language model.
        head: weights of its head.
        trained: weights that train.
    """

    encoder: float = 86e6
    patches: int = 196
    width: int = 768
    blocks: float = 440e6
    head: float = 156e6
    trained: float = 34e6

    @property
    def weights(self) -> float:
        """All weights."""
        return self.encoder + self.blocks + self.head

    @property
    def feature_bytes(self) -> float:
        """Bytes of the features of a picture in bfloat16."""
        return 2.0 * self.patches * self.width

    def encoding(self) -> float:
        """Operations to encode a picture."""
        return 2 * self.encoder * self.patches

    def step(self, captions: int, tokens: int) -> float:
        """Operations of a training step for a picture with so many captions of so many tokens."""
        text = captions * tokens
        both = 4 * (self.blocks * (self.patches + text) + self.head * text)  # forward, gradients of hidden states
        return both + 2 * self.trained * (self.patches + text)


@dataclass(frozen=True)
class Machine:
    """What the GPUs and their links reach.

    Attributes:
        rate: operations per second of a GPU.
        within: bytes per second between two GPUs of a node.
        between: bytes per second between two nodes, for all their GPUs together.
        latency: seconds of a message between two nodes.
        decoded: pictures that the cores of a GPU decode per second.
        cache: bytes of the feature cache of a node.
    """

    rate: float
    within: float
    between: float
    latency: float
    decoded: float
    cache: float


@dataclass(frozen=True)
class Figures:
    """What a number of GPUs reaches.

    Attributes:
        step: seconds of a step of a later epoch, without the cache's misses.
        network: bytes that a node sends for a step.
        exchange: seconds of that.
        first_epoch, later_epoch: hours.
        cached: share of the pictures whose features find room.
        efficiency: pictures per second and GPU, as a share of those of one GPU.
    """

    step: float
    network: float
    exchange: float
    first_epoch: float
    later_epoch: float
    cached: float
    efficiency: float


def decode_rate(pictures: int = 50) -> float:
    """Pictures of 500 x 375 pixels that one core decodes, and resizes to 224 x 224, per second of processor time."""
    import numpy as np
    from PIL import Image

    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    began = time.process_time()
    for _ in range(pictures):
        content.seek(0)
        Image.open(content).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return pictures / (time.process_time() - began)


def exchange(model: Model, machine: Machine, gpus: int, *, sharded: bool) -> tuple[float, float]:
    """Bytes that a node sends to others for a step, and the seconds of the exchange."""
    nodes, inside = math.ceil(gpus / GPUS_OF_A_NODE), min(gpus, GPUS_OF_A_NODE)
    volume = 2 * 4 * model.trained  # a ring sends all values twice
    if sharded:
        volume = 2 * 2 * model.weights + 4 * model.trained
    local = volume * (inside - 1) / inside
    remote = volume * (nodes - 1) / nodes
    seconds = local / machine.within + remote / machine.between + 2 * (nodes - 1) * machine.latency
    return remote, seconds


def slowest(processes: int, spread: float, draws: int = 400) -> float:
    """Mean of the slowest of so many processes, whose times have a mean of 1 and this deviation."""
    chance = random.Random(0)
    deviation = math.sqrt(math.log(1 + spread**2))
    times = (max(chance.lognormvariate(-(deviation**2) / 2, deviation) for _ in range(processes)) for _ in range(draws))
    return sum(times) / draws


def simulate(
    model: Model, machine: Machine, gpus: int, pictures: int, *, batch: int, captions: int, tokens: int,
    spread: float, sharded: bool,
) -> Figures:  # fmt: skip
    """Figures for a number of GPUs.

    Args:
        model: the captioner.
        machine: the cluster.
        gpus: their number.
        pictures: of an epoch.
        batch: pictures of a GPU and step.
        captions: of a picture.
        tokens: of a caption.
        spread: relative deviation of the time of a step between processes.
        sharded: weights are sharded (FSDP2).
    """
    network, seconds = exchange(model, machine, gpus, sharded=sharded)
    arithmetic = batch * model.step(captions, tokens) / machine.rate
    step = arithmetic * slowest(gpus, spread) + seconds
    steps = pictures / (batch * gpus)
    first = batch * max(model.encoding() / machine.rate, 1 / machine.decoded)
    nodes = math.ceil(gpus / GPUS_OF_A_NODE)
    cached = min(1.0, nodes * machine.cache / (pictures * model.feature_bytes))
    return Figures(
        step=step,
        network=network,
        exchange=seconds,
        first_epoch=steps * (step + first) / 3600,
        later_epoch=steps * (step + (1 - cached) * first) / 3600,
        cached=cached,
        efficiency=arithmetic / step,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for 1, 8, 64 and 512 GPUs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pictures", type=int, default=10_000_000)
    add("--batch", type=int, default=32, help="pictures of a GPU and step")
    add("--captions", type=int, default=5, help="of a picture")
    add("--tokens", type=int, default=14, help="of a caption")
    add("--peak", type=float, default=990e12, help="operations per second of a GPU in bfloat16 (an H100 by its sheet)")
    add("--share", type=float, default=0.4, help="of the peak that is reached; measured on a CPU: 0.75")
    add("--within", type=float, default=300e9, help="bytes per second between two GPUs of a node")
    add("--between", type=float, default=50e9, help="bytes per second between two nodes (a card of 400 Gbit/s)")
    add("--latency", type=float, default=20e-6, help="seconds of a message between two nodes")
    add("--cores", type=int, default=12, help="cores of a GPU, which decode pictures")
    add("--cache_gb", type=float, default=2000, help="feature cache of a node")
    add("--spread", type=float, default=0.05, help="relative deviation of the time of a step between processes")
    add("--trained", type=float, default=Model.trained, help="weights that train")
    add("--sharded", action="store_true", help="FSDP2")
    given = parser.parse_args(argv)
    model = Model(trained=given.trained)
    core = decode_rate()
    machine = Machine(
        rate=given.peak * given.share,
        within=given.within,
        between=given.between,
        latency=given.latency,
        decoded=given.cores * core,
        cache=given.cache_gb * 1e9,
    )
    print(f"a core decodes {core:.0f} pictures/s")
    work = model.step(given.captions, given.tokens) / 1e12
    print(f"features of a picture: {model.feature_bytes / 1e3:.0f} kB; a step of a picture: {work:.2f} TFLOP")
    columns = ["GPUs", "step, ms", "of it exchange, ms", "sent by a node, MB", "pictures/s", "efficiency"]
    columns += ["first epoch, h", "later epoch, h", "GPU hours of 10 epochs", "cached"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for gpus in GPUS:
        found = simulate(
            model, machine, gpus, given.pictures, batch=given.batch, captions=given.captions, tokens=given.tokens,
            spread=given.spread, sharded=given.sharded,
        )  # fmt: skip
        hours = gpus * (found.first_epoch + 9 * found.later_epoch)
        cells = [gpus, f"{1e3 * found.step:.1f}", f"{1e3 * found.exchange:.1f}", f"{found.network / 1e6:.0f}"]
        cells += [f"{gpus * given.batch / found.step:,.0f}", f"{found.efficiency:.0%}", f"{found.first_epoch:.2g}"]
        cells += [f"{found.later_epoch:.2g}", f"{hours:,.0f}", f"{found.cached:.0%}"]
        print("| " + " | ".join(map(str, cells)) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
