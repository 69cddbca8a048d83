"""Check whether an engine will load on this machine, and why not, before its runtime is asked to.

The sidecar says what the engine was built with and for, which is compared with this machine. A TensorRT-RTX engine
also has a header that its runtime can check. What only loading would show is not covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import ModuleType

from tofu_export.engines.building._build_log import BuildLog, make_logger
from tofu_export.engines.describing.engine_file import RTX_MAGIC
from tofu_export.engines.describing.sidecar import Sidecar, missing_sidecar, read_sidecar
from tofu_export.engines.flavours import RTX, Flavour, load
from tofu_export.errors import BackendMissingError, ExitCode, OptionError
from tofu_export.system import environment
from tofu_export.system.files import require_file
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["Answer", "EngineCheck", "Verdict", "check_engine"]


SOURCE = "onnx"
"""Name of the check that the ONNX file beside an engine is the one it was built from."""


class Answer(str, Enum):
    """Result of one check."""

    YES = "yes"
    UNKNOWN = "unknown"
    MISSING = "missing"
    NO = "no"

    @property
    def exit_code(self) -> ExitCode:
        """Exit code for the answer."""
        codes = {Answer.YES: ExitCode.GOOD, Answer.MISSING: ExitCode.BACKEND_MISSING}
        return codes.get(self, ExitCode.PRECISION)


@dataclass(frozen=True)
class Verdict:
    """One check: its question, the answer, and the reason."""

    question: str
    answer: Answer
    reason: str


@dataclass(frozen=True)
class EngineCheck:
    """All answers about one engine, in the order of the checks.

    Attributes:
        path: the engine.
        verdicts: the answers.
    """

    path: Path
    verdicts: tuple[Verdict, ...]

    @property
    def worst(self) -> Answer:
        """The answer that decides. The runtime's answer on the header replaces a missing sidecar."""
        answers = {verdict.answer for verdict in self.verdicts}
        if Verdict("header", Answer.YES, "") in {replace(verdict, reason="") for verdict in self.verdicts}:
            answers.discard(Answer.UNKNOWN)
        return next((answer for answer in (Answer.NO, Answer.MISSING, Answer.UNKNOWN) if answer in answers), Answer.YES)

    @property
    def loads(self) -> bool:
        """True if no check found a problem."""
        return self.worst is Answer.YES

    @property
    def summary(self) -> str:
        """Result in a few words."""
        words = {
            Answer.YES: "should load here",
            Answer.UNKNOWN: "may load here, but nothing says so",
            Answer.MISSING: "cannot load here as this machine is",
            Answer.NO: "will not load here",
        }
        if [verdict.question for verdict in self.verdicts if verdict.answer is Answer.NO] == [SOURCE]:
            return f"{self.path.name} was not built from the ONNX file beside it"
        return f"{self.path.name} {words[self.worst]}"

    def to_dict(self) -> JsonObject:
        """Return the check as plain values."""
        return to_object({"file": self.path.name, "result": self.worst, "loads": self.loads, "checks": self.verdicts})


def check_engine(path: Path) -> EngineCheck:
    """Check an engine against its sidecar and this machine.

    Raises:
        OptionError: there is no such file.
    """
    require_file(path, "an engine file")
    return EngineCheck(path, tuple(_verdicts(path)))


def _verdicts(path: Path) -> Iterator[Verdict]:
    with path.open("rb") as file:
        header = file.read(64)
    sidecar, verdict = _sidecar(path)
    yield verdict
    if sidecar is None:
        if not header.startswith(RTX_MAGIC):
            yield Verdict("header", Answer.UNKNOWN, "it does not begin as a plan of TensorRT-RTX does")
            return
        flavour = RTX
    else:
        yield _unchanged(sidecar)
        yield from _source(sidecar)
        try:
            flavour = sidecar.flavour
        except OptionError as error:
            yield Verdict("flavour", Answer.NO, str(error))
            return
    if flavour is RTX and not header.startswith(RTX_MAGIC):
        yield Verdict("header", Answer.NO, "the file does not begin as a plan of TensorRT-RTX does: it is damaged")
    trt: ModuleType | None = None
    try:
        trt = load(flavour)
    except BackendMissingError as error:
        yield Verdict("runtime", Answer.MISSING, str(error))
    if trt is not None:
        yield Verdict("runtime", Answer.YES, f"{flavour.name} {trt.__version__} is installed")
        if sidecar is not None:
            yield _version(flavour, str(trt.__version__), sidecar)
    yield from _hardware(flavour, sidecar)
    if trt is not None and hasattr(trt.Runtime, "get_engine_validity"):
        yield from _validity(trt, header)


def _sidecar(path: Path) -> tuple[Sidecar | None, Verdict]:
    """Return the sidecar, and a verdict on whether it is usable."""
    try:
        sidecar = read_sidecar(path)
    except OptionError as error:
        return None, Verdict("sidecar", Answer.NO, str(error))
    if sidecar is None:
        return None, Verdict("sidecar", Answer.UNKNOWN, missing_sidecar(path))
    return sidecar, Verdict("sidecar", Answer.YES, f"{sidecar.path.name} says what it was built with")


def _unchanged(sidecar: Sidecar) -> Verdict:
    try:
        sidecar.check_engine()
    except OptionError as error:
        return Verdict("plan", Answer.NO, str(error))
    return Verdict("plan", Answer.YES, f"it is what was built (SHA-256 {sidecar.engine_sha256[:12]})")


def _source(sidecar: Sidecar) -> Iterator[Verdict]:
    """Check that the ONNX file beside the engine is the one it was built from; loading does not need that file."""
    try:
        found = sidecar.onnx_beside()
    except OptionError as error:
        yield Verdict(SOURCE, Answer.NO, str(error))
        return
    if found is not None:
        yield Verdict(
            SOURCE, Answer.YES, f"{found.name} is what it was built from (SHA-256 {sidecar.onnx_sha256[:12]})"
        )


def _version(flavour: Flavour, installed: str, sidecar: Sidecar) -> Verdict:
    built = sidecar.version
    if built == installed:
        return Verdict("version", Answer.YES, f"it was built with {built}, the version that is installed")
    compatible = sidecar.options.get("version-compatible", False)
    if compatible and _numbers(built)[:1] == _numbers(installed)[:1] and _numbers(built) <= _numbers(installed):
        return Verdict("version", Answer.YES, f"it was built with {built} to load in later ones, such as {installed}")
    return Verdict(
        "version",
        Answer.NO,
        f"it was built with {flavour.name} {built}, and {installed} is installed: install that version, or build again",
    )


def _hardware(flavour: Flavour, sidecar: Sidecar | None) -> Iterator[Verdict]:
    """Check the GPU of this machine against those that the engine is for."""
    about = environment.collect()
    if about.gpu is None:
        yield Verdict(
            "gpu", Answer.MISSING, "this machine has no NVIDIA GPU with a working driver, which loading needs"
        )
        return
    if sidecar is None:
        return
    covered = sidecar.compute_capabilities
    if covered:
        here = environment.gpu_capabilities()
        fits = [name for name in here if name in covered]
        text = f"it runs on {', '.join(covered)}, and this machine has {', '.join(here) or 'a GPU that does not say'}"
        yield Verdict("gpu", Answer.YES if fits else Answer.NO, text + ("" if fits else ": build it for that"))
        return
    built, portable = sidecar.gpu, sidecar.options.get("hw-compat")
    if portable:
        yield Verdict("gpu", Answer.YES, f"it was built on {built} to run on other GPUs too ({portable})")
    elif built is not None and built.split(", ")[0] in about.gpu.split(", "):
        yield Verdict("gpu", Answer.YES, f"it was built on {built}, which this machine has")
    else:
        yield Verdict(
            "gpu",
            Answer.NO,
            f"it was built on {built}, and this machine has {about.gpu}: {flavour.name} builds for one kind of GPU, "
            "so build it here",
        )  # fmt: skip


def _validity(trt: ModuleType, header: bytes) -> Iterator[Verdict]:
    """Return the runtime's verdict on the engine's header; without a driver it can only detect a malformed one."""
    validity, bits = trt.Runtime(make_logger(trt, BuildLog())).get_engine_validity(header)
    reasons = [name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bits) & int(bit)]
    if validity == trt.EngineValidity.INVALID and reasons:
        said = ", ".join(name.lower().replace("_", " ") for name in reasons)
        yield Verdict("header", Answer.NO, f"the runtime refuses its header: {said}")
    elif validity != trt.EngineValidity.INVALID:
        yield Verdict("header", Answer.YES, f"the runtime calls its header {validity.name.lower()}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
