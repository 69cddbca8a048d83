"""Map folder names to class indices. A wrong order silently gives a wrong accuracy, so nothing is guessed.

The order of folders is that of the training set's loader: torchvision's `ImageFolder` sorts by text (`c10` before
`c2`), timm by natural order (`c2` before `c10`). If the two agree, as on ImageNet, the order need not be given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from tofu_export.errors import OptionError

__all__ = ["ClassOrder", "class_indices", "names_of_classes", "order_words", "read_class_map"]


class ClassOrder(str, Enum):
    """Sort order of class folders."""

    TEXT = "text"
    NATURAL = "natural"

    def sort(self, names: Sequence[str]) -> list[str]:
        """Sort names in this order."""
        return sorted(names) if self is ClassOrder.TEXT else sorted(names, key=_natural_key)


def class_indices(
    names: Sequence[str],
    num_classes: int,
    *,
    class_map: Mapping[str, int] | None,
    order: ClassOrder | None,
    class_names: Sequence[str] = (),
) -> dict[str, int]:
    """Return the class index of each folder name.

    Args:
        names: names of the folders.
        num_classes: number of classes of the model.
        class_map: index by name; overrides everything else.
        order: order of the names, if as many as the classes; None is allowed if both orders agree.
        class_names: class names of the model, in order, if known; folders with these names are these classes, unless
            an order is given. Case, and a space, underscore or hyphen between words, make no difference.

    Names that are all ImageNet's synsets (`n01440764`) get that class, also where folders are missing.

    Raises:
        OptionError: a name is not in the map, some are class names and others are not, the map or the folders are not
            as many as the model's classes, or the order matters and was not given.
    """
    if class_map is not None:
        return _mapped(names, num_classes, class_map)
    if order is None and _is_named(names, class_names):
        return _named(names, class_names)
    synsets = _synsets(num_classes)
    if synsets and set(names) <= synsets.keys():
        return {name: synsets[name] for name in names}
    if len(names) != num_classes:
        raise OptionError(
            f"{len(names)} class folders ({_some(names)}), but the model has {num_classes} classes: give one folder "
            "per class, or the class of each folder name with --class-map FILE (one name per line, first line class 0)"
        )
    orders = {choice: choice.sort(names) for choice in ClassOrder}
    if order is None and orders[ClassOrder.TEXT] != orders[ClassOrder.NATURAL]:
        at = next(i for i, pair in enumerate(zip(*orders.values(), strict=True)) if len(set(pair)) > 1)
        raise OptionError(
            f"class {at} is {orders[ClassOrder.TEXT][at]!r} if folders are sorted by text, as torchvision's "
            f"ImageFolder does, and {orders[ClassOrder.NATURAL][at]!r} in natural order, as timm does: say how the "
            "model was trained with --class-order text or natural, or give --class-map FILE"
        )
    return {name: index for index, name in enumerate(orders[order or ClassOrder.NATURAL])}


def order_words(
    index: Mapping[str, int],
    num_classes: int,
    *,
    class_map: Mapping[str, int] | None,
    order: ClassOrder | None,
    class_names: Sequence[str],
) -> str:
    """Return a note if only the order of folder names decides on their classes; empty if a map, option or name does.

    Args:
        index: result of `class_indices`, of the other arguments.
        num_classes: number of classes of the model.
        class_map: index by name.
        order: order of the names.
        class_names: class names of the model, in order.
    """
    names = tuple(index)
    if class_map is not None or order is not None or _is_named(names, class_names):
        return ""
    if set(names) <= _synsets(num_classes).keys() or all(
        name.isdecimal() and int(name) == number for name, number in index.items()
    ):
        return ""
    first, *_, last = sorted(names, key=lambda name: index[name]) * 2
    unlike = f", and no folder has the name of a class of the model ({class_names[0]}, ...)" if class_names else ""
    return f"{first} is class 0 and {last} class {num_classes - 1}, by the order of the folders' names{unlike}"


def _is_named(names: Sequence[str], class_names: Sequence[str]) -> bool:
    """True if a folder has the name of a class."""
    return not {_plain(name) for name in names}.isdisjoint(map(_plain, class_names))


def read_class_map(path: Path) -> dict[str, int]:
    """Read a class map from a text file with one name per line, the first one being class 0.

    Raises:
        OptionError: the file cannot be read, or repeats a name.

    Source: timm 1.0.31, `data.readers.class_map` (.txt).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the class map {path}: {error}; expected one class name per line") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    found = {name: index for index, name in enumerate(names)}
    if len(found) < len(names):
        twice = next(name for index, name in enumerate(names) if found[name] != index)
        raise OptionError(f"class map {path} has {twice!r} twice, expected each class once")
    return found


def names_of_classes(
    num_classes: int, *, class_map: Mapping[str, int] | None, class_names: Sequence[str]
) -> Mapping[str, int]:
    """Return class indices by name: from a map, or else the model's names and ImageNet's synsets."""
    if class_map is not None:
        return class_map
    own = {name: index for index, name in enumerate(class_names) if class_names.count(name) == 1}
    return {**_synsets(num_classes), **own}


def _named(names: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    plain = [_plain(name) for name in class_names]
    exact = {name: index for index, name in enumerate(class_names) if class_names.count(name) == 1}
    near = {name: plain.index(_plain(name)) for name in names if plain.count(_plain(name)) == 1}
    found = {name: exact.get(name, near.get(name)) for name in names}
    unknown = [name for name, index in found.items() if index is None]
    if unknown:
        raise OptionError(
            f"the model that is judged has names for its classes, and the folders {_some(unknown)} are none of them or "
            "two: rename them, or give the class of each folder with --class-map FILE"
        )
    return {name: index for name, index in found.items() if index is not None}


def _plain(name: str) -> str:
    """Return a name without case, and with single spaces for what separates its words."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _mapped(names: Sequence[str], num_classes: int, class_map: Mapping[str, int]) -> dict[str, int]:
    if len(class_map) != num_classes:
        raise OptionError(f"the class map has {len(class_map)} classes, but the model has {num_classes}")
    missing = [name for name in names if name not in class_map]
    if missing:
        raise OptionError(f"the class map has no class for the folders {_some(missing)}: add them, or move them away")
    return {name: class_map[name] for name in names}


def _synsets(num_classes: int) -> dict[str, int]:
    """Return class indices by synset for the ImageNet set with so many classes; empty if none."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return {}
    names: list[str] = ImageNetInfo(subset).label_names()  # type: ignore[no-untyped-call]  # timm types it partly
    return {name: index for index, name in enumerate(names)}


def _natural_key(name: str) -> list[str | int]:
    """Return the key for natural order. Source: timm 1.0.31, `utils.misc.natural_key`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"
