"""What holds for every test: no network, and no more threads than small machines have cores."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before any other import

import pytest
import torch

THREADS = 2


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
