"""Readers of data sets by kind of source, and the access of stages to images and labels.

A reader is `read(source, form: Form, data_root: Path) -> RawDataset`; only prepare calls it.
"""

DATASETS = {
    "cifar10": "gvbsm.data.cifar:read",
    "cifar100": "gvbsm.data.cifar:read",
    "digits": "gvbsm.data.digits:read",
    "imagenet": "gvbsm.data.imagenet:read",
    "imagefolder": "gvbsm.data.imagefolder:read",
    "tiny_imagenet": "gvbsm.data.tiny_imagenet:read",
}
