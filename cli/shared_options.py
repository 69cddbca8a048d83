"""Options that several commands have: one name, one type and one wording for each thing.

What differs between commands is an argument here, and `tests/cli/test_shared_options.py` lists what else may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tofu_export.cli.parameters import ImageSize, Numbers
from tofu_export.cli.sections import Section, option
from tofu_export.errors import OptionError
from tofu_export.options import MINIMUM_OPSET, IoType, OutputKind, Precision, Schedule, Target

__all__ = [
    "PROP_ATTN",
    "Decorator",
    "all_of",
    "bench_options",
    "bundle_option",
    "capability_option",
    "class_options",
    "dry_run_option",
    "file_precision_option",
    "image_batch_option",
    "image_size_option",
    "images_option",
    "json_option",
    "limit_option",
    "listed_batch_option",
    "model_option",
    "num_classes_option",
    "onnx_options",
    "output_kind_option",
    "output_option",
    "preprocessing_options",
    "prop_attn_option",
    "quiet_option",
    "schedule_option",
    "seconds_option",
    "seed_option",
    "served_batch_option",
    "shape_option",
    "target_option",
    "threads_option",
    "verbose_option",
    "verify_option",
    "weights_option",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PROP_ATTN = {"auto": None, "on": True, "off": False}
"""What `--prop-attn` says, as `Reduction.prop_attn` has it."""
FOLDER_OR_FILE = click.Path(path_type=Path)


def all_of(*decorators: Decorator) -> Decorator:
    """One decorator that adds options in the order in which they are given."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def _unless(text: str, default: str) -> str:
    """Help with a default that click cannot know."""
    return f"{text}  [default: {default}]" if default else text


# The model and what it reads.


def weights_option(default: str | None = "pretrained", *, unless: str = "") -> Decorator:
    """`--weights` and what belongs to it; the command gets `weights`, a `WeightsSource`, or None where it may be."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(*args: Any, weights: str | None, weights_key: str | None, allow_dropped: bool, **more: Any) -> Any:
            from tofu_export.zoo.weights import WeightsSource

            if weights is None and (weights_key is not None or allow_dropped):
                raise OptionError(
                    "--weights-key and --allow-dropped say how a file is read: give it with --weights PATH"
                )
            source = None
            if weights is not None:
                source = WeightsSource.parse(weights, key=weights_key, allow_dropped=allow_dropped)
            return command(*args, weights=source, **more)

        return all_of(
            option(Section.MODEL, "--weights", default=default, show_default=True, metavar="pretrained|random|PATH",
                   help=_unless("Where the weights come from.", unless)),
            option(Section.MODEL, "--weights-key", default=None, metavar="KEY",
                   help="Which of several models in the file, for example model_ema.  [default: averaged weights]"),
            option(Section.MODEL, "--allow-dropped", is_flag=True,
                   help="Leave out trained tensors that the model has no place for."),
        )(run)  # fmt: skip

    return decorate


def preprocessing_options() -> Decorator:
    """`--mean`, `--std`, `--interpolation` and `--crop-pct`."""
    unless = "  [default: what the weights say, or timm]"
    return all_of(
        option(Section.MODEL, "--mean", type=Numbers(), default=None, metavar="LIST",
               help=f"Mean of each channel, of pixels in [0, 1].{unless}"),
        option(Section.MODEL, "--std", type=Numbers(), default=None, metavar="LIST",
               help=f"Standard deviation of each channel.{unless}"),
        option(Section.MODEL, "--interpolation", default=None, metavar="NAME",
               help=f"How images are resized: bilinear, bicubic, ...{unless}"),
        option(Section.MODEL, "--crop-pct", type=float, default=None, metavar="X",
               help=f"Share of the resized image that is cut out.{unless}"),
    )  # fmt: skip


def model_option() -> Decorator:
    """`--model`, of commands that are given a file."""
    return option(Section.MODEL, "--model", default=None, metavar="NAME",
                  help="timm name of the model that FILE was made from.  [default: what FILE says]")  # fmt: skip


def image_size_option() -> Decorator:
    """`--image-size`."""
    return option(Section.MODEL, "--image-size", type=ImageSize(), default=None, metavar="H[xW]",
                  help="Input size in pixels.  [default: the model's own]")  # fmt: skip


def num_classes_option(unless: str = "the model's own") -> Decorator:
    """`--num-classes`."""
    return option(Section.MODEL, "--num-classes", type=click.IntRange(min=0), default=None, metavar="N",
                  help=_unless("Width of the classifier; 0 leaves it out.", unless))  # fmt: skip


def output_kind_option(unless: str) -> Decorator:
    """`--output-kind`."""
    return option(Section.MODEL, "--output-kind", type=click.Choice([kind.value for kind in OutputKind]), default=None,
                  help=_unless("What a file gives: logits, pooled features, the reduced tokens and where each original "
                               "one went, or the restored grid.", unless))  # fmt: skip


def seed_option(of: str) -> Decorator:
    """`--seed` of what is drawn, such as `random weights`."""
    return option(Section.MODEL, "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                  help=f"Seed of {of}.")  # fmt: skip


def shape_option() -> Decorator:
    """`--shape`, as often as there are inputs."""
    return option(Section.MODEL, "--shape", "shapes", multiple=True, metavar="NAME:1x3x224x224",
                  help="Sizes of an input that leaves more than the batch open; again for further inputs.")  # fmt: skip


def schedule_option() -> Decorator:
    """`--schedule`."""
    return option(Section.REDUCTION, "--schedule", type=click.Choice([schedule.value for schedule in Schedule]),
                  default=Schedule.CONSTANT.value, show_default=True,
                  help="Spread r evenly, or falling from 2r to 0.")  # fmt: skip


def prop_attn_option() -> Decorator:
    """`--prop-attn`."""
    return option(Section.REDUCTION, "--prop-attn", type=click.Choice(list(PROP_ATTN)), default="auto",
                  show_default=True,
                  help="Add the log of token sizes to the attention; auto: but for masked autoencoders.")  # fmt: skip


# Images.


def images_option(use: str, *, unless: str, section: Section = Section.IMAGES) -> Decorator:
    """`--images`: what `use` says of them, and what stands in for them."""
    return option(section, "--images", type=FOLDER_OR_FILE, default=None, metavar="DIR",
                  help=_unless(f"Folder of images{use}.", unless))  # fmt: skip


def limit_option(default: int | None = None, *, minimum: int = 1, use: str = "") -> Decorator:
    """`--limit`."""
    return option(Section.IMAGES, "--limit", type=click.IntRange(min=minimum), default=default, show_default=True,
                  metavar="N", help=f"Take so many images, spread evenly over all{use}.")  # fmt: skip


def image_batch_option(default: int) -> Decorator:
    """`--batch` of commands that put images through a model."""
    return option(Section.IMAGES, "--batch", type=click.IntRange(min=1), default=default, show_default=True,
                  metavar="N", help="Images at a time.")  # fmt: skip


def class_options() -> Decorator:
    """What the folders of `--images` mean: `--no-labels`, `--class-map`, `--class-order`."""
    return all_of(
        option(Section.IMAGES, "--no-labels", "labelled", is_flag=True, flag_value=False, default=True,
               help="Do not read folders as classes."),
        option(Section.IMAGES, "--class-map", type=FOLDER_OR_FILE, default=None, metavar="FILE",
               help="Class of each folder: one folder name per line, the first line is class 0."),
        option(Section.IMAGES, "--class-order", type=click.Choice(["text", "natural"]), default=None,
               help="How class folders are sorted, where it matters: as torchvision does, or as timm."),
    )  # fmt: skip


# ONNX files and engines.


def served_batch_option(default: str | None, *, note: str = "", unless: str = "") -> Decorator:
    """`--batch` of commands that write files."""
    return option(Section.FILES, "--batch", default=default, show_default=True, metavar="MIN:OPT:MAX",
                  help=_unless(f"Batch sizes to serve{note}.", unless))  # fmt: skip


def target_option() -> Decorator:
    """`--target`."""
    return option(Section.FILES, "--target", type=click.Choice([target.value for target in Target]),
                  default=Target.PORTABLE.value, show_default=True,
                  help="Runtime that files are for; portable: all of them.")  # fmt: skip


def onnx_options() -> Decorator:
    """`--target`, `--opset`, `--io-dtype`: how ONNX files are written."""
    return all_of(
        target_option(),
        option(Section.FILES, "--opset", type=click.IntRange(min=MINIMUM_OPSET), default=MINIMUM_OPSET,
               show_default=True, metavar="N", help="ONNX opset."),
        option(Section.FILES, "--io-dtype", type=click.Choice([kind.value for kind in IoType]),
               default=IoType.FP32.value, show_default=True,
               help="Type of what goes in and out: fp32, or that of the model."),
    )  # fmt: skip


def file_precision_option(unless: str) -> Decorator:
    """`--precision` of commands that are given a file."""
    return option(Section.CHECK, "--precision", type=click.Choice([precision.value for precision in Precision]),
                  default=None, help=_unless("Precision that the file has to be of.", unless))  # fmt: skip


def verify_option(note: str = "") -> Decorator:
    """`--verify`; `note` says what becomes of a wrong file."""
    return option(Section.CHECK, "--verify/--no-verify", default=True, show_default=True,
                  help=f"Compare every file with eager PyTorch{note}.")  # fmt: skip


def capability_option() -> Decorator:
    """`--compute-capability`."""
    return option(Section.ENGINE, "--compute-capability", default="", metavar="LIST",
                  help="GPUs that TensorRT-RTX engines run on, such as SM80,SM89; SM75 gets an engine of its own.  "
                  "[default: SM80 and newer]")  # fmt: skip


# Time.


def listed_batch_option(unless: str = "", default: str = "") -> Decorator:
    """`--batch` of commands that run files."""
    return option(Section.TIMING, "--batch", default=default, show_default=bool(default), metavar="LIST",
                  help=_unless("Batch sizes, such as 1,8.", unless))  # fmt: skip


def threads_option(section: Section = Section.TIMING) -> Decorator:
    """`--threads`."""
    return option(section, "--threads", type=click.IntRange(min=1), default=None, metavar="N",
                  help="Threads of onnxruntime.  [default: one per physical core]")  # fmt: skip


def seconds_option() -> Decorator:
    """`--seconds`."""
    return option(Section.TIMING, "--seconds", type=click.FloatRange(min=0), default=3.0, show_default=True,
                  metavar="S", help="Shortest measured time of each file and batch size.")  # fmt: skip


def bench_options(default: bool) -> Decorator:
    """`--bench`, `--bench-batch`, `--threads` of a job."""
    return all_of(
        option(Section.TIMING, "--bench/--no-bench", default=default, show_default=True,
               help="Time reduced against full in onnxruntime."),
        option(Section.TIMING, "--bench-batch", default="", metavar="LIST",
               help="Batch sizes to time, such as 1,8.  [default: OPT]"),
        threads_option(),
    )  # fmt: skip


# Results.


def output_option(what: str, metavar: str, **settings: Any) -> Decorator:
    """`-o`: what a command writes."""
    return option(Section.OUTPUT, "-o", "--output", type=FOLDER_OR_FILE, metavar=metavar, help=what, **settings)


def bundle_option() -> Decorator:
    """`--bundle`."""
    return option(Section.OUTPUT, "--bundle", type=FOLDER_OR_FILE, default=None, metavar="DIR",
                  help="If a file is wrong or an engine cannot be built: write all that is needed to look closer to "
                  "this new folder.")  # fmt: skip


def json_option() -> Decorator:
    """`--json`."""
    return option(Section.OUTPUT, "--json", "as_json", is_flag=True,
                  help="Print one JSON document on stdout, and nothing else there.")  # fmt: skip


def dry_run_option() -> Decorator:
    """`--dry-run`."""
    return option(Section.OUTPUT, "--dry-run", is_flag=True, help="Show what would be made, and make nothing.")


def quiet_option(what: str = "Only errors.") -> Decorator:
    """`-q`."""
    return option(Section.OUTPUT, "-q", "--quiet", is_flag=True, help=what)


def verbose_option(also: str) -> Decorator:
    """`-v`: what it shows beside the rest."""
    return option(Section.OUTPUT, "-v", "--verbose", is_flag=True, help=f"Also {also}.")
