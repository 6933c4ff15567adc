"""Run digits as a new user would, and write what it prints, and its picture, into the README: `python -m benchmarks.readme`."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gvbsm.runtime.devices import device_name
from gvbsm.store.code import PROJECT

README, PICTURE = PROJECT / "README.md", PROJECT / "docs" / "digits-ipc10.png"
BLOCK = re.compile(r"(?<=<!-- digits -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    """Make digits in an empty folder; replace the README's block and the picture."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder, environment = Path(name), os.environ | {"PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-m", "gvbsm", "init"], cwd=folder, env=environment, check=True)
        command = [sys.executable, "-m", "snakemake", "--cores", "all"]
        done = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=True)
        shutil.copyfile(folder / "results/digits/ipc10/images.png", PICTURE)
    machine = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, {datetime.date.today()}"
    README.write_text(BLOCK.sub(lambda _: block(done.stderr, machine), README.read_text()))


def block(printed: str, machine: str) -> str:
    """The README's text between its marks: the last lines that snakemake printed, and the machine."""
    last = printed[printed.rindex("\ndigits, 10 images per class") :].strip()
    note = "Settings were chosen on these test images: this shows only that every stage works."
    return f"```\n{last}\n```\n\n({machine}. {note})\n"


if __name__ == "__main__":
    main()
