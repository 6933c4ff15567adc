"""The cache of torch.compile's graphs, and their largest number."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def set_up_compiler(cache: Path, graphs: int) -> None:
    """Keep compiled graphs in `cache` (unless the user's environment names a folder), for other jobs too.

    Allow `graphs` graphs of one function; torch's own limit is eight. One more is an error: it would run uncompiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.absolute()))
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, graphs)
    config.fail_on_recompile_limit_hit = True
