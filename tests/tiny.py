"""The row of most tests, and a change to it that saves time."""

from typing import Any

# Digits at 8 px, networks of a few channels, two shards of everything that is sharded.
TINY: dict[str, Any] = {
    "extends": "digits",
    "image_size": 8,
    "augment": {"pad": 1},
    "backbones": [
        {"name": "convnet", "options": {"width": 4}},
        {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}},
        # Of 4 channels, torch 2.15 writes beyond its memory on CPUs without AVX-512 (channels last, backward).
        {"name": "resnet10", "options": {"width": 8}},
    ],
    "squeeze": {"epochs": 2},
    "recover": {"iterations": 6, "batch_size": 10, "group": 2, "shard_batches": 2, "roll": 1},
    "relabel": {"epochs": 4, "shard_epochs": 2, "batch_size": 16},
    "evaluate": {
        "students": [
            {"name": "convnet", "options": {"width": 4}},
            {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}},
        ],
        "seeds": [0, 1],
        "epochs": 4,
        "test_every": 2,
    },
}

# For tests of one student on the distilled images: 1 training of the 12 that tiny has.
ONE_STUDENT = {"evaluate": {"students": [{"name": "convnet", "options": {"width": 4}}], "seeds": [0], "baselines": []}}
