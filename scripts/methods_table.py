"""Write docs/methods.md: one line for every method, read from its class and its file in conf/method.

python scripts/methods_table.py            writes it
python scripts/methods_table.py --check    exits with 1 if it is out of date
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.methods.base import FAMILIES, Method, ranges
from runner.paths import conf_dir, options, stacked

DOCS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
TIMES = DOCS.with_name("step_times.json")  # written by scripts/bench/methods.py
REASONS = (
    (
        ("dropout", "mc_dropout", "channel_dropout", "alpha_dropout", "gaussian_dropout", "hidden_noise", "r_drop"),
        "a number is drawn for every hidden value and lane. A mask costs a third of a uniform number and a normal one "
        "four times that; the nets are so small that their matrix work is two fifths of the baseline's step.",
    ),
    (
        ("gradient_noise", "weight_noise", "drop_connect", "l0"),
        "a number is drawn for every weight and passed through logarithms.",
    ),
    (("bootstrap",), "a softmax of the net's own logits is mixed into the targets, next to a net this small."),
    (("dropblock",), "blocks are grown by a max-pool over every feature map, next to a net of two convolutions."),
    (
        ("batch_norm", "ghost_batch_norm", "layer_norm", "group_norm", "rms_norm"),
        "several passes over every hidden value, forward and backward. torch's fused kernel is faster and rounds a "
        "lane by its number of neighbours, which no run may depend on. `ghost_batch_norm` is cheaper where its "
        "size divides the batch.",
    ),
    (
        ("mixup", "cutmix", "manifold_mixup"),
        "a Beta share is drawn by eight proposals of tiny operations, whose overhead shows beside a small net; "
        "`manifold_mixup` mixes at every place of every lane, since each lane draws its own.",
    ),
    (
        ("rand_augment", "trivial_augment", "aug_mix", "aug_mix_jsd", "augment", "random_erasing", "cutout"),
        "every example has operations of its own, and each operation is computed for all; an image net costs more.",
    ),
    (("orthogonal", "spectral_norm", "spectral_penalty", "agc", "weight_norm", "weight_standardization", "path_norm"),
     "products and norms of the weights themselves, which cost as much at a batch of one."),
    (("ensemble", "shake_shake"), "twice or more the weights are trained; that is the method."),
    (
        ("jacobian", "input_gradient", "virtual_adversarial", "fgsm", "sam", "asam", "mean_teacher"),
        "gradients of gradients or further passes, whose overhead does not shrink with the net.",
    ),
    (("prune", "ema", "swa", "lookahead", "snapshot_ensemble", "l1", "elastic_net", "group_lasso", "max_norm"),
     "more passes over the weights in every step, next to small batches."),
)  # fmt: skip
HOOKS = (
    "build", "batch", "weights", "hidden", "penalty", "gradient", "project", "remember", "recall", "average", "stop",
)  # fmt: skip
HEAD = """# Methods

Written by `python scripts/methods_table.py` from the classes in `runner/methods` and the files in `conf/method`; do not
edit it. `regrun method=NAME` trains one, `regrun 'method=[NAME,OTHER]'` a stack, in that order.

- **Strengths**: each with its default and range; the first is the one that grids, tables and figures speak of. A
  strength marked *net* shapes the net, so that runs which differ in it are trained one pack after another.
- **Grid**: the values of the first strength that `protocol=tuned` chooses from.
- **Passes**: gradient passes of one step, in those of the baseline: what a method costs before its own arithmetic.
- **Time**: a step's time in steps of the baseline, measured side by side on one thread: of `mlp` on `mnist1d` in 16
  lanes (of `resnet_mlp`, marked r, where the method needs residual blocks), and of `convnet` on `fashion_mnist` in one.
- **Hooks**: where it acts; see `runner/methods/base.py`. In one marked *(last)* it comes after the others, whatever the
  order of the list.
"""


def page() -> str:
    """The text of docs/methods.md."""
    rows: dict[str, list[str]] = {}
    for name in options("method"):
        if name != "none" and stacked(name) == [name]:
            family, row = line(name)
            rows.setdefault(family, []).append(row)
    parts = [HEAD]
    for family in FAMILIES:
        if family in rows:
            parts.append(f"\n## {family.capitalize()}\n")
            parts.append(
                "| Method | What it does | Strengths | Grid | Passes | Time, 16 lanes | Time, convnet | Hooks |"
            )
            parts.append("|---|---|---|---|---|---|---|---|")
            parts += rows[family]
    named = [name for name in options("method") if stacked(name) != [name]]
    parts += [
        "\n## Named stacks\n",
        *(f"- `{name}`: {', '.join(f'`{part}`' for part in stacked(name))}" for name in named),
    ]
    return "\n".join(parts) + "\n" + costs()


def costs() -> str:
    """What the times were measured on, and why some are longer than their passes say."""
    about = json.loads(TIMES.read_text(encoding="utf-8"))["machine"]
    lines = [
        "\n## What the times say\n",
        f"Measured on {about['processor']} with torch {about['torch']}, {about['date']}, by "
        "`python scripts/bench/methods.py`, which says how. A method of one pass takes up to 1.3, one of two up to "
        "2.2; the others, and why:\n",
    ]
    dear = {name for name in measured() if max(measured()[name].values()) > allowance(name)}
    told = {name for names, _ in REASONS for name in names}
    if dear - told:
        sys.exit(f"no reason is given for the time of {', '.join(sorted(dear - told))} (REASONS in {__file__})")
    for names, reason in REASONS:
        if here := [name for name in names if name in dear]:
            lines.append(f"- {', '.join(f'`{name}`' for name in here)}: {reason}")
    return "\n".join(lines) + "\n"


def allowance(name: str) -> float:
    """How many baseline steps a step may take before it must be explained."""
    passes = method_of(name)[0].passes
    return 1.3 if passes <= 1 else 1.1 * passes


@cache
def measured() -> dict[str, dict[str, float]]:
    """The ratios of each method by setting."""
    ratios: dict[str, dict[str, float]] = json.loads(TIMES.read_text(encoding="utf-8"))["ratios"]
    return ratios


def method_of(name: str) -> tuple[type[Method], dict[str, Any]]:
    """The class of a method and its settings."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{name}.yaml"))
    assert isinstance(node, dict)
    settings: dict[str, Any] = node[name]
    module, _, label = settings["_target_"].rpartition(".")
    return getattr(import_module(module), label), settings


def line(name: str) -> tuple[str, str]:
    """The family of a method and its row."""
    method, settings = method_of(name)
    first = inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    strengths = [
        f"`{field}` = {settings[field]:g} ({'net, ' if allowed.built else ''}{allowed})"
        for field, allowed in ranges(method).items()
    ]
    grid = ", ".join(f"{value:g}" for value in next(iter(settings["grid"].values())))
    own = [hook for hook in HOOKS if getattr(method, hook) is not getattr(Method, hook)]
    hooks = ", ".join(f"{hook} (last)" if hook in method.comes_last else hook for hook in own)
    ratios = measured().get(name, {})
    lanes = next((f"{v:.2f}{' r' * k.startswith('resnet')}" for k, v in ratios.items() if "lanes" in k), "–")
    alone = next((f"{v:.2f}" for k, v in ratios.items() if "convnet" in k), "–")
    cells = [f"`{name}`", first, "; ".join(strengths), grid, f"{method.passes:g}", lanes, alone, hooks]
    return method.family, "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Write the page, or say whether it is out of date."""
    parser = argparse.ArgumentParser(description="write docs/methods.md")
    parser.add_argument("--check", action="store_true", help="only say whether it is out of date")
    text = page()
    if parser.parse_args().check:
        same = DOCS.is_file() and DOCS.read_text(encoding="utf-8") == text
        if not same:
            print(f"{DOCS} is out of date; run: python scripts/methods_table.py", file=sys.stderr)
        return 0 if same else 1
    DOCS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
