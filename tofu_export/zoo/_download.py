"""Get files from the model hub or a URL: from the local cache if present, else after one quick check.

The hub's client retries an unreachable host for half a minute per file. So each download starts with a single HEAD
request with a short timeout; when that fails, nothing is retried. No setting of the client is changed. Clients without
`retry_on_errors` (0.36, which transformers before 5 asks for) retry this request as well: there the error comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError

from tofu_export.errors import WeightsError
from tofu_export.zoo._quiet import quiet

__all__ = ["hub_file", "page", "url_file"]

PROBE_TIMEOUT_S: Final = 5.0
"""Seconds that a host may take to answer the first request."""


def hub_file(repository: str, filenames: Sequence[str]) -> Path:
    """Return the first of `filenames` in a repository as a local file. Cached files win and need no network.

    Args:
        repository: `organisation/name`, or `organisation/name@revision`.
        filenames: candidates, best first.

    Raises:
        WeightsError: the hub cannot be reached, or the repository or all of its candidates do not exist. The message
            says what failed; the caller adds what to do.
    """
    repo_id, _, revision = repository.partition("@")
    with quiet():
        try:
            for filename in filenames:
                cached = huggingface_hub.try_to_load_from_cache(repo_id, filename, revision=revision or None)
                if isinstance(cached, str):
                    return Path(cached)
            for filename in filenames:
                url = huggingface_hub.hf_hub_url(repo_id, filename, revision=revision or None)
                try:
                    huggingface_hub.get_hf_file_metadata(url, timeout=PROBE_TIMEOUT_S)
                except EntryNotFoundError:
                    continue
                return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision or None))
        except Exception as error:  # the client has raised requests', httpx's and its own errors in turn
            raise WeightsError(f"cannot download from {page(repository)}: {_reason(error)}") from error
    raise WeightsError(f"{page(repository)} has none of the files {', '.join(filenames)}")


def url_file(url: str, filename: str | None = None) -> Path:
    """Return the file at a URL, in torch's checkpoint cache.

    Raises:
        WeightsError: the host cannot be reached or refuses. The caller adds what to do.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / (filename or Path(urlparse(url).path).name)
    if target.is_file():
        return target
    try:
        with urlopen(Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S):
            pass
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), progress=False)
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot download {url}: {_reason(error)}") from error
    return target


def page(repository: str) -> str:
    """Return the web page of a repository."""
    return f"https://huggingface.co/{repository.partition('@')[0]}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{f' ({lines[0]})' if lines else ''}"
