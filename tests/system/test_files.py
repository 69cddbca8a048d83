"""A final name holds a complete file or nothing, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tofu_export.errors import OutputError
from tofu_export.system import files
from tofu_export.system.files import Staging, sha256_of, staging, write_text

CONTENT = {"model.onnx.data": b"w" * 300_000, "model.onnx": b"g" * 70_000, "report.json": b"{}"}


def fill(stage: Staging) -> None:
    for name, content in CONTENT.items():
        stage.path(name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# --- Publishing --------------------------------------------------------------------------------------------------


def test_nothing_shows_before_it_is_published(tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        fill(stage)
        assert stage.destination == tmp_path
        assert stage.folder.parent == tmp_path  # the same file system, so that a rename is one step
        assert stage.path("model.onnx").parent == stage.folder
        assert contents(tmp_path) == {}
        published = stage.publish(*CONTENT)
        assert published == [tmp_path / name for name in CONTENT]
        assert contents(tmp_path) == CONTENT
    assert contents(tmp_path) == CONTENT
    assert leftovers(tmp_path) == []


def test_what_is_not_published_goes(tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        fill(stage)
        stage.path("folder").mkdir()
        (stage.path("folder") / "scratch").write_bytes(b"x")
        stage.publish("report.json")
    assert contents(tmp_path) == {"report.json": b"{}"}
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]


def test_older_files_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"old")
    (tmp_path / "mine.txt").write_bytes(b"mine")
    with staging(tmp_path) as stage:
        fill(stage)
        stage.publish(*CONTENT)
    assert contents(tmp_path) == {**CONTENT, "mine.txt": b"mine"}


def test_every_file_is_on_the_disk_before_the_first_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    replace, flush = Path.replace, files.flush_to_disk
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append(("rename", self.name)), replace(self, to))[1])
    monkeypatch.setattr(files, "flush_to_disk", lambda path: (steps.append(("flush", path.name)), flush(path))[1])
    with staging(tmp_path) as stage:
        fill(stage)
        stage.publish(*CONTENT)
    names = list(CONTENT)
    assert steps == [
        *(("flush", name) for name in names),
        *(("rename", name) for name in names),
        ("flush", tmp_path.name),
    ]


def test_a_file_that_was_never_written_is_an_output_error_and_publishes_nothing(tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        fill(stage)
        with pytest.raises(OutputError, match=r"cannot write to .*No such file"):
            stage.publish("report.json", "model.fp16.onnx")
        assert contents(tmp_path) == {}


def test_a_folder_in_the_place_of_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "model.onnx" / "mine").write_bytes(b"mine")
    with staging(tmp_path) as stage:
        fill(stage)
        with pytest.raises(OutputError, match="cannot write to"):
            stage.publish("model.onnx")
    assert (tmp_path / "model.onnx" / "mine").read_bytes() == b"mine"
    assert leftovers(tmp_path) == []


_SLOW = """
import sys, time
from pathlib import Path
from tofu_export.system import files

with files.staging(Path(sys.argv[1])) as stage:
    for name in ("a", "b"):
        stage.path(name).write_text(sys.argv[2])
    replace = Path.replace

    def slowly(self, to):
        result = replace(self, to)
        time.sleep(0.3)
        return result

    Path.replace = slowly
    print("ready", flush=True)
    sys.stdin.readline()
    stage.publish("a", "b")
"""


def test_of_two_processes_that_publish_the_second_waits(tmp_path: Path) -> None:
    """Each needs 0.6 s for two files: without a lock they would mix."""
    folder = tmp_path / "out"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", _SLOW, str(folder), text],
            cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for text in ("first", "second")
    ]  # fmt: skip
    for job in jobs:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("\n")
        job.stdin.flush()
    for job in jobs:
        job.communicate(timeout=60)
        assert job.returncode == 0
    found = contents(folder)
    assert set(found) == {"a", "b"}
    assert found["a"] == found["b"]


# --- Failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staging(tmp_path) as stage:
        fill(stage)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_created_for_nothing_goes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(RuntimeError), staging(folder) as stage:
        fill(stage)
        assert folder.is_dir()
        raise RuntimeError
    assert not folder.exists()


def test_a_folder_created_for_something_stays(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), staging(folder) as stage:
        fill(stage)
        stage.publish("report.json")
        raise RuntimeError
    assert contents(folder) == {"report.json": b"{}"}


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging(tmp_path):
        raise RuntimeError
    assert tmp_path.is_dir()


def test_a_folder_created_before_the_first_step_failed_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(OutputError, match="No space left on device"), staging(tmp_path / "out"):
        pytest.fail("not reached")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("under", ["", "deep/er"])
def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path, under: str) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    message = (
        rf"cannot write to .*: {'it' if not under else '.*out'} is a file, expected a folder. Choose another place"
    )
    with pytest.raises(OutputError, match=message) as error, staging(tmp_path / "out" / under):
        pytest.fail("not reached")
    assert error.value.exit_code == 2
    assert isinstance(error.value, OSError)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_dangling_link_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone" / "deeper")
    with pytest.raises(OutputError), staging(tmp_path / "out"):
        pytest.fail("not reached")
    assert (tmp_path / "out").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"), staging(tmp_path / "out"):
            pytest.fail("not reached")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tofu-export-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_output_error(small_disk: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device"), staging(small_disk / "out") as stage:
        fill(stage)
        stage.publish(*CONTENT)
    assert list(small_disk.iterdir()) == []


def test_running_out_of_disk_while_writing_is_an_output_error(tmp_path: Path) -> None:
    """What a full disk raises in the middle of a model, on machines where none can be mounted."""
    with pytest.raises(OutputError, match="No space left on device"), staging(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "out").exists()


# --- Killed ------------------------------------------------------------------------------------------------------

_PROGRAM = """
import os, signal, sys
from pathlib import Path
from tofu_export.system import files

stop = int(sys.argv[2])
steps = 0

def step():
    global steps
    if steps == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1

def around(function):
    def call(*args, **kwargs):
        step()
        result = function(*args, **kwargs)
        step()
        return result
    return call

files.flush_to_disk = around(files.flush_to_disk)
Path.replace = around(Path.replace)
files.shutil.rmtree = around(files.shutil.rmtree)
with files.staging(Path(sys.argv[1])) as stage:
    step()
    for name, size in (("model.onnx.data", 300_000), ("model.onnx", 70_000), ("report.json", 2)):
        with stage.path(name).open("wb") as file:
            file.write(b"n" * (size // 2))
            file.flush()
            step()
            file.write(b"n" * (size - size // 2))
    stage.publish("model.onnx.data", "model.onnx", "report.json")
print(steps)
"""


def run_and_kill(folder: Path, stop: int) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(stop)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_killed_at_any_step_no_name_holds_half_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    new = {name: b"n" * len(content) for name, content in CONTENT.items()}
    stop = 0
    kept_old = published = 0
    while True:
        folder.mkdir(exist_ok=True)
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)
        done = run_and_kill(folder, stop)
        found = contents(folder)
        # Files of two runs never stand together, and weights are there before the graph that needs them.
        complete = [{name: kind[name] for name in found} for kind in (CONTENT, new)]
        assert found in complete, stop
        assert list(CONTENT)[: len(found)] == [name for name in CONTENT if name in found], stop
        kept_old += found == CONTENT
        published += found == new
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        stop += 1
    assert int(done.stdout) > 10
    assert kept_old >= 4
    assert published >= 2
    assert leftovers(folder) == []  # the last run cleared what all the others left


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    assert run_and_kill(tmp_path, 2).returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    with staging(tmp_path) as stage:
        assert leftovers(tmp_path) == [stage.folder.name]
    assert leftovers(tmp_path) == []


def test_another_runs_folder_stays_while_it_runs(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        theirs = tmp_path / f".tofu-export-{sleeper.pid}-abc"
        theirs.mkdir()
        with staging(tmp_path) as first, staging(tmp_path) as second:
            assert first.folder != second.folder
            assert theirs.is_dir()
            assert first.folder.is_dir()
    finally:
        sleeper.kill()
        sleeper.wait()
    with staging(tmp_path):
        assert not theirs.exists()


@pytest.mark.parametrize("name", [".tofu-export-mine", ".tofu-export-", "tofu-export-999999999-a", ".other"])
def test_folders_that_only_look_alike_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with staging(tmp_path):
        pass
    assert (tmp_path / name).is_dir()


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device")
def test_a_full_device_is_an_output_error_and_stays_one() -> None:
    with pytest.raises(OutputError, match="cannot write to /dev/full: No space left"):
        write_text(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


# --- Digests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
