"""Several processes that train one network together, each on its part of every batch.

The process that the user starts is rank 0: it starts the others, and only it writes files and shows progress. A
signal to any rank makes rank 0 save and all of them stop, at the same step.
`torchrun --nproc-per-node 2 -m gvbsm squeeze ...` starts all ranks too. Every rank draws the random numbers of a single process
and keeps its part. BatchNorm and the loss are over the whole batch, so the result differs from one process's by rounding only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import distributed

from gvbsm.errors import Interrupted, UserError

_PATIENCE = timedelta(days=1)  # timeout for the slowest rank, which may be decoding images
_STORE, _PARENT = "GVBSM_STORE", "GVBSM_PARENT"  # for ranks 1 and up: the port of the store, and the process of rank 0


@contextlib.contextmanager
def process_group(processes: int) -> Iterator[None]:
    """Join the process group for the block. Rank 0 starts the other ranks, unless torchrun did, and ends them afterwards.

    NCCL's group ends only when all ranks end it. So all do after the block, and after an interruption, which stops all at the
    same step. After another error the other ranks may wait elsewhere: this rank leaves its group to the end of the process.

    Raises:
        UserError: if torch was built without torch.distributed.
    """
    if not distributed.is_available():
        raise UserError("--processes: expected a torch with torch.distributed, got one without; use --processes 1")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    children = _Children()
    if _STORE in os.environ:
        _die_with_parent()
        size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        store = distributed.TCPStore("127.0.0.1", int(os.environ[_STORE]), size, is_master=False)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        distributed.init_process_group(backend, timeout=_PATIENCE)
    else:
        store = distributed.TCPStore("127.0.0.1", 0, processes, is_master=True, wait_for_workers=False)
        children.start(processes, store.port)
        distributed.init_process_group(backend, store=store, rank=0, world_size=processes, timeout=_PATIENCE)
    try:
        yield
    except Interrupted:
        distributed.destroy_process_group()
        raise
    else:
        distributed.destroy_process_group()
    finally:
        children.end()


class _Children:
    """Ranks 1 and up, which run the same command. If one fails, all end: the others would wait for it for ever."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ending = threading.Event()

    def start(self, processes: int, port: int) -> None:
        shared = {_STORE: str(port), _PARENT: str(os.getpid()), "WORLD_SIZE": str(processes)}
        for rank in range(1, processes):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "gvbsm", *sys.argv[1:]]
            self._processes.append(subprocess.Popen(command, env=environment))
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()

    def end(self) -> None:
        self._ending.set()
        for process in self._processes:
            process.kill()

    def _watch(self, rank: int) -> None:
        status = self._processes[rank - 1].wait()
        if status and not self._ending.is_set():
            self.end()
            if status != 2:  # 2: the rank has written the user's error itself
                sys.stderr.write(f"gvbsm: rank {rank} ended with status {status}; run the same command to go on\n")
            sys.stderr.flush()
            os._exit(2 if status == 2 else 1)


def _die_with_parent() -> None:
    """On Linux, have this process killed when rank 0 dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[_PARENT]):  # rank 0 died before the call
            os._exit(1)
