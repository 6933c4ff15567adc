"""Data sets by kind of source, and what every stage does with their images.

A reader is `read(source: dict, *, classes, image_size, channels, data_root) -> RawDataset`; only prepare calls it.
"""

DATASETS = {
    "digits": "gvbsm.data.digits:read",
    "imagefolder": "gvbsm.data.imagefolder:read",
}
