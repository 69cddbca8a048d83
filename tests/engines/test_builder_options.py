from __future__ import annotations

from pathlib import Path

import pytest

from tofu_export.engines.building.builder_options import REFUSED, BuilderOptions, cache_file, check_options, parse_size
from tofu_export.engines.flavours import RTX, TENSORRT
from tofu_export.errors import OptionError

ASKED = {
    "builder-opt-level": BuilderOptions(level=0),
    "timing-cache": BuilderOptions(timing_cache=Path("a/cache.bin")),
    "version-compatible": BuilderOptions(version_compatible=True),
    "hw-compat": BuilderOptions(hardware="ampere+"),
    "strip-weights": BuilderOptions(strip_weights=True),
    "refit": BuilderOptions(refit=True),
}


@pytest.mark.parametrize("name", ASKED)
def test_rtx_refuses_what_it_would_ignore_or_fail_at(name):
    assert list(ASKED[name].asked) == [name]
    with pytest.raises(OptionError, match=f"--{name} does not work with tensorrt-rtx: .*leave it out"):
        check_options(ASKED[name], RTX)
    check_options(ASKED[name], TENSORRT)


def test_the_table_speaks_of_options_that_exist():
    assert {option for _, option in REFUSED} == ASKED.keys()
    check_options(BuilderOptions(workspace_bytes=1), RTX)
    check_options(BuilderOptions(), RTX)
    assert BuilderOptions().asked == {}


@pytest.mark.parametrize(
    ("values", "words"), [({"level": 6}, "0 to 5"), ({"level": -1}, "0 to 5"), ({"hardware": "turing"}, "ampere")]
)
def test_bad_values(values, words):
    with pytest.raises(OptionError, match=words):
        BuilderOptions(**values)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("512M", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("4 KB", 4096)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1", "2X", "M"])
def test_bad_sizes(text):
    with pytest.raises(OptionError, match="512M"):
        parse_size(text)


def test_cache_file_is_of_one_gpu_version_and_file():
    base = (Path("a/cache.bin"), "RTX 4090", "10.3", "ab")
    others = [("L4", "10.3", "ab"), ("RTX 4090", "10.4", "ab"), ("RTX 4090", "10.3", "cd"), (None, "10.3", "ab")]
    names = {cache_file(*base), *(cache_file(base[0], *other) for other in others)}
    assert len(names) == 5
    assert cache_file(*base) == cache_file(*base)
    assert all(path.parent == Path("a") and path.name.startswith("cache.") and path.suffix == ".bin" for path in names)
