"""Where torch.compile keeps its graphs, and how many it may."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def set_up_compiler(cache: Path, graphs: int) -> None:
    """Keep compiled graphs in `cache` (unless the user's environment names a folder), where other jobs find them.

    Up to `graphs` of them come from one function; torch would give up on compiling it after eight.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.absolute()))
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, graphs)
