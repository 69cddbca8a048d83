"""The commands, and the conversion of errors to one line and an exit code.

Nothing heavy is imported here: `tofu-export --help` must answer at once.
"""

from __future__ import annotations

import difflib
import logging
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click
from click_default_group import DefaultGroup

from tofu_export.cli.analyze import analyze_command
from tofu_export.cli.bench import bench_command
from tofu_export.cli.build import build_command
from tofu_export.cli.check import check_command
from tofu_export.cli.doctor import doctor_command
from tofu_export.cli.eval import eval_command
from tofu_export.cli.export import export_command
from tofu_export.cli.help import help_command
from tofu_export.cli.images_compare import images_compare_command
from tofu_export.cli.lint import lint_command
from tofu_export.cli.lower import lower_command
from tofu_export.cli.models import models_command
from tofu_export.cli.plan import plan_command
from tofu_export.cli.report import report_command
from tofu_export.cli.start import ENDED, INTERRUPTED, TERMINATED, Terminated
from tofu_export.cli.stopping import clear, last_words
from tofu_export.cli.sweep import sweep_command
from tofu_export.cli.tokens import tokens_command
from tofu_export.cli.triton import triton_command
from tofu_export.cli.tune import tune_command
from tofu_export.cli.unet import unet_command
from tofu_export.cli.verify import verify_command
from tofu_export.errors import ExitCode, TofuError, UnknownModelError

__all__ = ["cli", "main"]

_ALIKE = 0.7
"""Similarity of a word and a command, by difflib, from which the command is suggested."""
_NO_MEMORY = "out of memory: try a smaller --batch, or one --precision at a time"
_MEMORY_WORDS = ("failed to map segment", "Cannot allocate memory", "can't allocate memory", "std::bad_alloc")
"""Messages of the loader of libraries, the system, torch and C++ on exhausted memory, in other exceptions."""


@click.group(
    cls=DefaultGroup,
    default="export",
    default_if_no_args=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="tofu-export", prog_name="tofu-export")
def cli() -> None:
    """Export vision transformers with Token Fusion to ONNX and TensorRT, verified and timed.

    \b
    tofu-export vit_base --r 16 --mode mlerp      the main job (short for: tofu-export export vit_base ...)
    tofu-export plan vit_base --r 16              what would be removed where, and what that saves
    tofu-export verify out/model.fp16.onnx -v     does a file compute what its model computes
    tofu-export bench a.onnx b.onnx --profile     which file is faster, and where the time goes
    tofu-export unet sd15 --weights random        Stable Diffusion's UNet, reduced in its self-attention
    tofu-export images-compare full tofu          PSNR, MS-SSIM, LPIPS, FID and KID of two folders of images
    tofu-export sweep demo_vit --r 16,32,48       what each reduction of a grid costs and gains; tables, a chart
    tofu-export lower theirs.onnx -o ours.onnx    rewrite what TensorRT rejects in a file of another exporter
    tofu-export triton out -o repository          serve the files with Triton Inference Server
    tofu-export build any.onnx                    a TensorRT engine, checked before and described after
    tofu-export check any.engine                  whether it will load here, and why not
    tofu-export lint any.onnx                     what a runtime would reject or silently change in it
    tofu-export eval vit_base --images val        accuracy on images, agreement with the full model
    tofu-export analyze demo_vit                  which layers bear pruning or merging, on real images
    tofu-export tune vit_base --speedup 2 --images photos    the best method and r of each layer for them
    tofu-export tokens out/model.fp32.onnx dog.jpg    draw which patches were pruned, and which are one token by now
    tofu-export report out --add sweep.json       make the page of a job again, with more evidence
    tofu-export models dinov3                     which models can be reduced
    tofu-export doctor                            what is installed, what is missing
    tofu-export demo_vit                          try it offline, on a small model that is included

    Exit codes: 0 good, 1 unexpected, 2 usage, 3 unsupported model or failed export, 4 failed verification,
    5 missing backend, 6 failed engine build, 7 precision or portability mismatch, 130 interrupted, 143 terminated.
    """


cli.add_command(export_command)
cli.add_command(plan_command)
cli.add_command(verify_command)
cli.add_command(eval_command)
cli.add_command(analyze_command)
cli.add_command(tune_command)
cli.add_command(bench_command)
cli.add_command(sweep_command)
cli.add_command(lower_command)
cli.add_command(build_command)
cli.add_command(check_command)
cli.add_command(lint_command)
cli.add_command(models_command)
cli.add_command(doctor_command)
cli.add_command(report_command)
cli.add_command(tokens_command)
cli.add_command(triton_command)
cli.add_command(unet_command)
cli.add_command(images_compare_command)
cli.add_command(help_command)


def main() -> NoReturn:
    """Run the command line and exit."""
    _asked.clear()
    clear()
    if len(sys.argv) < 2:
        click.echo(cli.get_help(click.Context(cli, info_name="tofu-export", **cli.context_settings)), err=True)
        raise SystemExit(ExitCode.USAGE)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGINT, _interrupt)
        cli.main(prog_name="tofu-export", standalone_mode=False)
    except UnknownModelError as error:
        _fail(f"{error}{_meant()}", error.exit_code)
    except TofuError as error:
        _fail(str(error), error.exit_code)
    except click.UsageError as error:
        hint = f". See: {error.ctx.command_path} --help" if error.ctx is not None else ""
        _fail(f"{error.format_message().rstrip('.')}{_meant() or hint}", ExitCode.USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _fail(_ended(INTERRUPTED), INTERRUPTED)
    except Terminated:
        _fail(_ended(TERMINATED), TERMINATED)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(ExitCode.UNEXPECTED) from None
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "tofu_export"):
            _fail_unexpectedly(error)
        _fail(
            f"the package {package} is missing: `tofu-export doctor` says how to install it", ExitCode.BACKEND_MISSING
        )
    except MemoryError:
        _fail(_NO_MEMORY, ExitCode.UNEXPECTED)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", ExitCode.EXPORT)
    except Exception as error:  # the last resort: a bug of ours
        _fail_unexpectedly(error)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # nothing is left to clean up: only libraries shut down
    raise SystemExit(ExitCode.GOOD)


def _fail_unexpectedly(error: Exception) -> NoReturn:
    if logging.getLogger("tofu_export").isEnabledFor(logging.INFO):
        traceback.print_exception(error)
    first_line = (str(error).splitlines() or ["no message"])[0]
    if any(words in str(error) for words in _MEMORY_WORDS):
        _fail(f"{_NO_MEMORY} ({first_line})", ExitCode.UNEXPECTED)
    _fail(
        f"unexpected {type(error).__name__}: {first_line}. This is a defect: run again with -v and report it",
        ExitCode.UNEXPECTED,
    )


def _meant() -> str:
    """Return a hint if the first word resembles a command: an unknown word is taken for a model."""
    word = sys.argv[1]
    close = [] if word in cli.commands else difflib.get_close_matches(word, cli.commands, 1, _ALIKE)
    return f". If you meant the command: tofu-export {close[0]} --help" if close else ""


_asked: list[int] = []
"""Exit codes of the signals received: an interrupted import may raise an error of another kind."""


def _fail(message: str, code: int) -> NoReturn:
    if _asked:
        code = _asked[0]
        message = _ended(code)
    click.echo(f"tofu-export: error: {message}", err=True)
    raise SystemExit(int(code))


def _ended(code: int) -> str:
    return f"{ENDED[code]}; {last_words()}"


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    _asked.append(INTERRUPTED)
    raise KeyboardInterrupt


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Exit as on any error, so that incomplete files and child processes are removed."""
    _asked.append(TERMINATED)
    raise Terminated
