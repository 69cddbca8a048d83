"""Options from dataclasses, and dataclasses from options."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tofu_export import cli as package
from tofu_export.cli.command import Run, command
from tofu_export.cli.main import cli
from tofu_export.cli.sections import SectionedCommand
from tofu_export.errors import ExitCode
from tofu_export.options.declaration import Alias, Section, group, opt, positional

MOST_PARAMETERS = 10


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Paint:
    colour: Colour = opt(Colour.RED, "Which colour.", Section.FILES)
    gloss: bool | None = opt(
        None, "Shine.", Section.FILES, choices={"auto": None, "on": True, "off": False},
        alias=Alias("--matt", "off", "The same as --gloss off."),
    )  # fmt: skip


@dataclass(frozen=True)
class Wall:
    path: Path = positional(metavar="WALL")
    height: float = opt(2.5, "Metres.", Section.MODEL, metavar="M", minimum=0)
    layers: tuple[int, ...] = opt(
        (1, 2), "Layers.", Section.MODEL, metavar="LIST", parse=lambda text: tuple(map(int, text.split(",")))
    )
    primed: bool = opt(True, "Prime it.", Section.FILES)
    wet: bool = opt(False, "Do not wait.", Section.FILES)
    paint: Paint = group(Paint)
    note: str = "not an option"


@dataclass(frozen=True)
class Room(Wall):
    doors: int = opt(1, "Doors.", Section.MODEL, metavar="N")


def made_by(*words: str, kind: type[Wall] = Wall) -> Wall:
    found: list[Wall] = []

    def body(wall: Wall, run: Run) -> ExitCode | None:
        """Paint."""
        found.append(wall)
        return None

    body.__annotations__["wall"] = kind
    result = CliRunner().invoke(command("paint", short_help="Paint.")(body), words)
    assert result.exit_code == 0, result.output
    return found[0]


def test_what_is_not_given_has_the_default_of_its_field() -> None:
    assert made_by("hall") == Wall(Path("hall"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--height", "3"), Wall(Path("hall"), height=3.0)),
        (("--layers", "4,5"), Wall(Path("hall"), layers=(4, 5))),
        (("--no-primed", "--wet"), Wall(Path("hall"), primed=False, wet=True)),
        (("--colour", "blue"), Wall(Path("hall"), paint=Paint(Colour.BLUE))),
        (("--gloss", "on"), Wall(Path("hall"), paint=Paint(gloss=True))),
        (("--gloss", "auto"), Wall(Path("hall"))),
        (("--matt",), Wall(Path("hall"), paint=Paint(gloss=False))),
        (("--matt", "--gloss", "on"), Wall(Path("hall"), paint=Paint(gloss=True))),
    ],
    ids=str,
)
def test_what_is_given(words: tuple[str, ...], expected: Wall) -> None:
    assert made_by(*words, "hall") == expected


def test_options_of_the_base_come_last() -> None:
    made = made_by("hall", "--doors", "2", kind=Room)
    assert made == Room(Path("hall"), doors=2)
    room = command("paint", short_help="")(_take_room)
    assert [parameter.name for parameter in room.params][:3] == ["doors", "path", "height"]


def _take_room(room: Room, run: Run) -> None:
    """Paint."""


def test_help_shows_defaults_as_they_are_typed() -> None:
    paint = command("paint", short_help="")(_take_room)
    text = " ".join(paint.get_help(click.Context(paint)).split())
    assert "Layers. [default: 1,2]" in text
    assert "Which colour. [default: red]" in text
    assert "Shine. [default: auto]" in text
    assert "[default: primed]" in text
    assert "Doors. [default: 1]" in text
    assert "note" not in text


def test_a_body_decides_the_exit_code() -> None:
    def body(wall: Wall, run: Run) -> ExitCode:
        """Refuse."""
        return ExitCode.PRECISION

    body.__annotations__["wall"] = Wall
    assert CliRunner().invoke(command("paint", short_help="")(body), ["hall"]).exit_code == ExitCode.PRECISION


def test_functions_have_few_parameters() -> None:
    """Those that do the work of commands, and all others of the command line."""
    bodies = [made.body for made in cli.commands.values() if isinstance(made, SectionedCommand) and made.body]
    assert len(bodies) == len(cli.commands)
    assert all(len(inspect.signature(body).parameters) <= MOST_PARAMETERS for body in bodies)
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len(given) <= MOST_PARAMETERS, f"{path.name}: {node.name}"


def test_declarations_load_nothing_heavy() -> None:
    code = (
        "import sys, tofu_export.cli.main; print(*{'numpy', 'onnx', 'onnxruntime', 'rich', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_two_fields_of_a_command_share_a_name() -> None:
    """Of parameters and flags; an alias has the name of its option."""
    for made in cli.commands.values():
        flags = [flag for parameter in made.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert len(set(flags)) == len(flags), made.name
        twice = [name for name, count in Counter(parameter.name for parameter in made.params).items() if count > 1]
        assert set(twice) <= {"reduction_prop_attn"}, made.name
