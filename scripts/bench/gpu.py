"""How fast is a CUDA device with 1 to 1,024 runs side by side: beside a tight loop, as a share of its peak, in memory?

    python scripts/bench/gpu.py --minutes 10             --graphs, --compile, --deterministic: such steps, too
    python scripts/bench/gpu.py --minutes 10 --write docs/benchmarks.md

The mlp and the convolutional net of MNIST-1D at its size, and the `convnet` at Fashion-MNIST's, on random numbers, in
batches of 100, by Adam. A run is 2,400 steps. Seconds are the device's, between two of its events, with the median of a
few turns. The tight loop trains one run with its data on the device and torch's fused optimizer; how many times as fast
as such loops one after another is the target: 100 for mlp with 256 runs, 10 for convnet with 64. The share of the peak
is what products and convolutions need (three times those of a forward pass), over what the device says of itself:
multiprocessors, clock, and 128 float32 multiply-adds in each per cycle. A step as a CUDA graph, compiled, or
with the same bits each time is in times of a step as it is. Sizes for which memory or the minutes end, or that fail,
are left out, and said.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from single import EXAMPLES, data, tight
from torch import nn
from turns import machine, of, put, store

from runner.data.base import Splitter
from runner.engine.loop import compiled
from runner.engine.machine import is_full
from runner.engine.optimizers import Adam
from runner.engine.pack import Drawn, Lanes, Pack, Scale, begin, few_steps
from runner.engine.packing import multiply_adds
from runner.engine.schedules import Constant
from runner.engine.tape import Taped
from runner.engine.weights import built_net
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.stack import Stack
from runner.nets.convolutional import conv1d, convnet
from runner.nets.dense import mlp

LANES = (1, 4, 16, 64, 256, 1024)
BATCH, STEPS, TURNS, OF_A_RUN = 100, 20, 5, 2400
PER_CYCLE = 128  # float32 multiply-adds of a multiprocessor, from compute capability 8.6 on, and of 9.0
SIGNAL, IMAGE = (1, 40), (1, 28, 28)
MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "mlp": (SIGNAL, partial(mlp, SIGNAL, 10, 100, 2)),
    "conv1d": (SIGNAL, partial(conv1d, SIGNAL, 10, 25)),
    "convnet": (IMAGE, partial(convnet, IMAGE, 10, 32, 128)),
}
Seconds = Callable[[Callable[[], object]], float]


def experiment(model: str, lanes: int, device: torch.device) -> Experiment:
    """So many runs side by side on the device."""
    shape, net = MODELS[model]
    return Experiment(
        data(shape), Splitter(EXAMPLES, 0, None, "none", 0, standardize=False), net, Stack({}),
        Adam(0.001, 0.9, 0.999, 1e-8), Constant(), Budget(OF_A_RUN // STEPS, BATCH, OF_A_RUN // STEPS), device,
        torch.float32, lanes,
    )  # fmt: skip


def runs(lanes: int) -> list[Run]:
    """So many runs that differ in their seeds."""
    return [Run(seed, "report", {}, 0) for seed in range(lanes)]


def by_hand(model: str, device: torch.device, seconds: Seconds) -> float:
    """Seconds that a step of one run takes in the tight loop."""
    shape, net = MODELS[model]
    own = net().to(device)
    fused = torch.optim.Adam(own.parameters(), 0.001, fused=True)
    train = tight(own, shape, BATCH, fused, device=device)
    train(STEPS)
    return median(seconds(partial(train, STEPS)) / STEPS for _ in range(TURNS))


def by_events(call: Callable[[], object]) -> float:
    """Seconds of the device between two events around a call."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def by_clock(call: Callable[[], object]) -> float:
    """Seconds of the processor: for trying this script without a device."""
    clock = time.process_time()
    call()
    return time.process_time() - clock


def one_step(pack: Pack, lanes: Lanes) -> Callable[[], object]:
    """The first step of a pack, of what stands ready: what a graph can hold, since it copies nothing to the device."""
    rows = lanes.rows["train"][:, :BATCH]
    drawn, scale = Drawn(rows, pack.pool(lanes).labels(rows)), Scale(lanes.mean, lanes.std, lanes.fill)
    at, share = torch.tensor(0, device=rows.device), torch.tensor(1.0, device=rows.device)
    of_lanes = drawn, scale, lanes.strengths, lanes.hyper, lanes.key
    return partial(pack.step, lanes.state, *of_lanes, at, pack.steps, share, pack.source)


def replayed(step: Callable[[], object]) -> Callable[[], object]:
    """A step as a CUDA graph: the same kernels on the same tensors, handed to the device at once."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is set up at first must not be captured
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measured(
    model: str, lanes: int, device: torch.device, asked: argparse.Namespace, seconds: Seconds, hand: float
) -> dict[str, Any]:
    """What so many runs side by side take; raises what torch does where memory ends. `hand` is `by_hand`."""
    on_cuda = device.type == "cuda"
    gc.collect()  # what an error holds of the size before
    if on_cuda:
        torch.cuda.empty_cache()
    trained = experiment(model, lanes, device)
    pack, before = begin(trained, runs(lanes))

    def per_step(pack: Pack, first: Lanes) -> float:
        few_steps(pack, first, 8)  # what is set up at first
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()  # what a step that is written down was compared with is gone
        return median(seconds(partial(few_steps, pack, first, STEPS)) / STEPS for _ in range(TURNS))

    each = per_step(pack, before)
    held = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else None
    on_cpu = replace(trained, device=torch.device("cpu"))
    work = 3 * 2 * multiply_adds(built_net(on_cpu), on_cpu) * BATCH * lanes
    row = {
        "model": model, "lanes": lanes, "step_ms": each * 1e3, "runs_per_s": lanes / (each * OF_A_RUN),
        "times_tight": lanes * hand / each,
        "share_of_peak": work / each / peak_of(device) if on_cuda else None,
        "memory_mib": held,
    }  # fmt: skip
    if asked.graphs and on_cuda and isinstance(pack.step, Taped) and not pack.step.unfit:
        step = one_step(pack, before)
        plain = median(seconds(step) for _ in range(STEPS))
        again = replayed(step)
        again()  # the first time it is handed to the device, too
        row["graph_ratio"] = median(seconds(again) for _ in range(STEPS)) / plain
    if asked.deterministic:
        row["deterministic_ratio"] = per_step(*begin(replace(trained, deterministic=True), runs(lanes))) / each
        begin(trained, runs(1))  # and torch may do as before
    if asked.compile and (fused := compiled(pack, before, print)):
        row["compiled_ratio"] = per_step(replace(pack, step=fused), before) / each
    return row


def peak_of(device: torch.device) -> float:
    """Float32 operations that the device can do in a second, without tensor cores."""
    about = torch.cuda.get_device_properties(device)
    return 2.0 * PER_CYCLE * about.multi_processor_count * about.clock_rate * 1e3  # clock_rate is in kHz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="no size is begun after so long")
    parser.add_argument("--graphs", action="store_true", help="a step as a CUDA graph beside a step as it is")
    parser.add_argument("--compile", action="store_true", help="a compiled step beside a step as it is")
    parser.add_argument("--deterministic", action="store_true", help="a step that repeats its bits, likewise")
    parser.add_argument("--dry", action="store_true", help="two small sizes on the CPU: for seeing that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/gpu.json"))
    asked = parser.parse_args()
    if not asked.dry and not torch.cuda.is_available():
        sys.exit("gpu.py: this machine has no CUDA device that torch can use (--dry tries the script on the CPU)")
    device, seconds = (torch.device("cpu"), by_clock) if asked.dry else (torch.device("cuda"), by_events)
    about = machine() | ({} if asked.dry else {"device": torch.cuda.get_device_name()})
    rows, left_out, until = [], [], time.monotonic() + 60 * asked.minutes
    for model in MODELS:
        hand = by_hand(model, device, seconds)
        for lanes in LANES[:2] if asked.dry else LANES:
            if time.monotonic() > until:
                left_out.append(f"{model} with {lanes} runs (the minutes have ended)")
                continue
            try:
                rows.append(measured(model, lanes, device, asked, seconds, hand))
            except RuntimeError as error:  # one size must not cost the others
                why = "memory has ended" if is_full(error) else " ".join(str(error).split())[:200]
                left_out.append(f"{model} with {lanes} runs ({why})")
            store(asked.out, {"machine": about, "rows": rows, "left_out": left_out})
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if any(row.get(key) for row in rows)]
    page = "\n".join(
        [
            of(about),
            f"| {' | '.join(columns)} |", f"| {' | '.join('---:' for _ in columns)} |",
            *(f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows),
            *([f"\nLeft out: {'; '.join(left_out)}."] if left_out else []),
        ]
    )  # fmt: skip
    print(page)
    if asked.write:
        put(asked.write, "gpu", page)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str("–" if value is None else value)


if __name__ == "__main__":
    main()
