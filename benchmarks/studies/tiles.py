"""Put the first distilled images of some classes beside one another: `python benchmarks/studies/tiles.py RUN FILE LABEL...`.

docs/imagenette.jpg is that of results/imagenette.few/ipc1 with the labels 1 8 5 7: classes without people in their images.
"""

import sys

import torch
from PIL import Image

import gvbsm


def main(run: str, target: str, *labels: str) -> None:
    """Write the picture of a published run, in the form that the file's name ends in."""
    data = gvbsm.load(run)
    first = [int((data.labels == int(label)).nonzero()[0, 0]) for label in labels]
    tiles_NCHW = data.images[torch.tensor(first)]
    row_HWC = torch.cat([*tiles_NCHW], 2).permute(1, 2, 0)
    Image.fromarray(row_HWC.expand(-1, -1, 3).contiguous().numpy()).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
