"""Options that several requests share: one name, one type and one wording for each.

Arguments cover what differs between commands; `tests/cli/test_shared_options.py` lists other allowed differences.
Each function returns a dataclass field.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tofu_export.options.declaration import Section, opt
from tofu_export.options.kinds import (
    MINIMUM_OPSET,
    AttentionForm,
    BatchRange,
    IoType,
    Precision,
    Schedule,
    Target,
    parse_layers,
    parse_precisions,
)
from tofu_export.options.selection import Selection
from tofu_export.options.texts import parse_batches, parse_names, parse_shapes

__all__ = [
    "PROP_ATTN_HELP",
    "attention",
    "bench",
    "bench_batches",
    "bundle",
    "capabilities",
    "class_map",
    "class_order",
    "exclude_layers",
    "file_precision",
    "image_batch",
    "image_size",
    "images",
    "io_type",
    "labelled",
    "limit",
    "listed_batches",
    "model_of_file",
    "num_classes",
    "opset",
    "output",
    "output_kind",
    "precisions",
    "schedule",
    "seconds",
    "seed",
    "select",
    "served_batch",
    "shapes",
    "target",
    "threads",
    "verify",
]

PROP_ATTN_HELP = "Add the log of token sizes to the attention; auto: but for masked autoencoders."


# The model and what it reads.


def model_of_file() -> Any:
    """Return the field for `--model`, in commands that are given a file."""
    help = "timm name of the model that FILE was made from."
    return opt(None, help, Section.MODEL, metavar="NAME", unless="what FILE says", everyday=True)


def image_size() -> Any:
    """Return the field for `--image-size`."""
    return opt(None, "Input size in pixels.", Section.MODEL, metavar="H[xW]", unless="the model's own", everyday=True)


def num_classes(unless: str = "the model's own") -> Any:
    """Return the field for `--num-classes`."""
    help = "Width of the classifier; 0 leaves it out."
    return opt(None, help, Section.MODEL, metavar="N", unless=unless, minimum=0)


def output_kind(unless: str) -> Any:
    """Return the field for `--output-kind`."""
    help = (
        "What a file gives: logits, pooled features, the reduced tokens and where each original one went, or the "
        "restored grid."
    )
    return opt(None, help, Section.MODEL, unless=unless)


def seed(of: str) -> Any:
    """Return the field for `--seed`; `of` names what is drawn, such as `random weights`."""
    return opt(0, f"Seed of {of}.", Section.MODEL, metavar="N", minimum=0)


def shapes() -> Any:
    """Return the field for `--shape`, which is repeated for each input."""
    help = "Sizes of an input that leaves more than the batch open; again for further inputs."
    flags = ("--shape",)
    return opt(
        dict, help, Section.MODEL, flags=flags, metavar="NAME:1x3x224x224", multiple=True, parse=parse_shapes,
        everyday=True,
    )  # fmt: skip


# The reduction.


def schedule() -> Any:
    """Return the field for `--schedule`."""
    return opt(Schedule.CONSTANT, "Spread r evenly, or falling from 2r to 0.", Section.REDUCTION)


def select() -> Any:
    """Return the field for `--select`."""
    return opt(Selection.BIPARTITE, "How the tokens that leave are chosen.", Section.REDUCTION)


def exclude_layers() -> Any:
    """Return the field for `--exclude-layers`."""
    help = "Layers that remove nothing, counted from 0, such as 0,11."
    return opt((), help, Section.REDUCTION, metavar="LIST", parse=parse_layers)


# Images.


def images(use: str, *, unless: str, section: Section = Section.IMAGES) -> Any:
    """Return the field for `--images`; `use` says what they are for, `unless` what replaces them."""
    return opt(None, f"Folder of images{use}.", section, metavar="DIR", unless=unless, everyday=True)


def limit(default: int | None = None, *, minimum: int = 1, use: str = "") -> Any:
    """Return the field for `--limit`."""
    help = f"Take so many images, spread evenly over all{use}."
    return opt(default, help, Section.IMAGES, metavar="N", minimum=minimum, everyday=True)


def image_batch(default: int) -> Any:
    """Return the field for `--batch`, in commands that run a model on images."""
    return opt(default, "Images at a time.", Section.IMAGES, metavar="N", minimum=1, everyday=True)


def labelled() -> Any:
    """Return the field for `--no-labels`."""
    return opt(True, "Do not read folders as classes.", Section.IMAGES, flags=("--no-labels",))


def class_map() -> Any:
    """Return the field for `--class-map`."""
    help = "Class of each folder: one folder name per line, the first line is class 0."
    return opt(None, help, Section.IMAGES, metavar="FILE")


def class_order() -> Any:
    """Return the field for `--class-order`."""
    return opt(None, "How class folders are sorted, where it matters: as torchvision does, or as timm.", Section.IMAGES)


# ONNX files and engines.


def served_batch(default: BatchRange | None, *, note: str = "", unless: str = "") -> Any:
    """Return the field for `--batch`, in commands that write files."""
    help = f"Batch sizes to serve{note}."
    return opt(
        default, help, Section.FILES, metavar="MIN:OPT:MAX", unless=unless, parse=BatchRange.parse, everyday=True
    )


def precisions(default: tuple[Precision, ...], help: str) -> Any:
    """Return the field for `--precision`, in commands that write files."""
    return opt(
        default, help, Section.FILES, flags=("--precision",), metavar="LIST", parse=parse_precisions, everyday=True
    )


def target() -> Any:
    """Return the field for `--target`."""
    return opt(Target.PORTABLE, "Runtime that files are for; portable: all of them.", Section.FILES)


def opset() -> Any:
    """Return the field for `--opset`."""
    return opt(MINIMUM_OPSET, "ONNX opset.", Section.FILES, metavar="N", minimum=MINIMUM_OPSET)


def io_type() -> Any:
    """Return the field for `--io-dtype`."""
    help = "Type of what goes in and out: fp32, or that of the model."
    return opt(IoType.FP32, help, Section.FILES, flags=("--io-dtype",))


def attention() -> Any:
    """Return the field for `--attention`."""
    help = (
        "Attention in half precision: one kernel in TensorRT, FP32 sums in it, or products and an FP32 softmax apart."
    )
    return opt(AttentionForm.FUSED, help, Section.FILES)


def file_precision(unless: str) -> Any:
    """Return the field for `--precision`, in commands that are given a file."""
    return opt(None, "Precision that the file has to be of.", Section.CHECK, unless=unless, everyday=True)


def verify(note: str = "") -> Any:
    """Return the field for `--verify`; `note` says what happens to a wrong file."""
    return opt(True, f"Compare every file with eager PyTorch{note}.", Section.CHECK)


def capabilities() -> Any:
    """Return the field for `--compute-capability`."""
    help = "GPUs that TensorRT-RTX engines run on, such as SM80,SM89; SM75 gets an engine of its own."
    flags = ("--compute-capability",)
    return opt((), help, Section.ENGINE, flags=flags, metavar="LIST", unless="SM80 and newer", parse=parse_names)


# Time.


def listed_batches(default: tuple[int, ...] = (), *, unless: str = "", section: Section = Section.TIMING) -> Any:
    """Return the field for `--batch`, in commands that run files."""
    help = "Batch sizes, such as 1,8."
    return opt(
        default, help, section, flags=("--batch",), metavar="LIST", unless=unless, parse=parse_batches,
        everyday=True,
    )  # fmt: skip


def bench_batches() -> Any:
    """Return the field for `--bench-batch`."""
    parse = partial(parse_batches, option="--bench-batch")
    flags = ("--bench-batch",)
    return opt(
        (), "Batch sizes to time, such as 1,8.", Section.TIMING, flags=flags, metavar="LIST", unless="OPT", parse=parse
    )


def bench(default: bool, help: str = "Time reduced against full in onnxruntime.") -> Any:
    """Return the field for `--bench`."""
    return opt(default, help, Section.TIMING, flags=("--bench/--no-bench",), everyday=True)


def threads(section: Section = Section.TIMING) -> Any:
    """Return the field for `--threads`."""
    return opt(None, "Threads of onnxruntime.", section, metavar="N", unless="one per physical core", minimum=1)


def seconds() -> Any:
    """Return the field for `--seconds`."""
    help = "Shortest measured time of each file and batch size."
    return opt(3.0, help, Section.TIMING, flags=("--seconds",), metavar="S", minimum=0)


# Results.


def output(help: str, metavar: str, *, default: Path | None = None, unless: str = "", required: bool = False) -> Any:
    """Return the field for `-o`, the output of a command: a folder if `metavar` is `DIR`, else a file."""
    flags = ("-o", "--output")
    return opt(
        default, help, Section.OUTPUT, flags=flags, metavar=metavar, unless=unless, required=required, everyday=True,
        writes="folder" if metavar == "DIR" else "file",
    )  # fmt: skip


def bundle() -> Any:
    """Return the field for `--bundle`."""
    help = (
        "If a file is wrong or an engine cannot be built: write all that is needed to look closer to this new folder."
    )
    return opt(None, help, Section.OUTPUT, metavar="DIR")
