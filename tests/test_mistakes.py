"""What users get wrong: one line that says what, where and the remedy, exit status 2, no traceback, nothing half-written."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gvbsm import cli
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import read_plan, write_plans
from gvbsm.store import files as disk
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE, plan_file

TARGET = "results/tiny/ipc4/acc.json"


def run(capsys, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit status and stderr."""
    status = cli.main(list(arguments))
    return status, capsys.readouterr().err


def assert_one_line(status: int, stderr: str, expected: str, status_expected: int = 2) -> None:
    assert status == status_expected
    assert stderr.startswith("gvbsm: ")
    assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert "Traceback" not in stderr
    assert re.search(expected, stderr), stderr


SELECT = {"choose": "random", "crops": 1, "scale": [1.0, 1.0], "cells": 1, "seed": 0, "threads": 1, "precision": "float32"}
# (changes to the row, pattern of the error line)
ROW_MISTAKES = {
    "misspelt section": ({"recovr": {"iterations": 5}}, r"tiny\.yaml: unknown setting 'recovr'; did you mean 'recover'\?"),
    "misspelt key": ({"squeeze": {"epohcs": 5}}, r"tiny\.yaml: squeeze: unknown setting 'epohcs'; did you mean 'epochs'\?"),
    "misspelt inner key": ({"recover": {"ema": {"momentun": 0.5}}}, r"recover\.ema: unknown setting 'momentun'.*'momentum'"),
    "misspelt source key": ({"source": {"sed": 1}}, r"source: unknown setting 'sed'; did you mean 'seed'\?"),
    "unknown backbone": (
        {"backbones": ["convnet", "resent18"]},
        r"tiny\.yaml: backbones\[1\]: unknown network 'resent18'; .*choose from convnet, ",
    ),
    "network with a space after its library": (
        {"backbones": ["convnet", {"timm": "resnet18"}]},
        r"backbones\[1\]: expected a network, got a setting 'timm'; write timm:resnet18 without a space",
    ),
    "network without a name": (
        {"evaluate": {"students": [{"label": "x"}]}},
        r"evaluate\.students\[0\]: expected the name of a network, got none; add name",
    ),
    "unknown network of torchvision": (
        {"backbones": ["torchvision:resent18"]},
        r"backbones\[0\]: unknown network 'torchvision:resent18'; .* did you mean torchvision:resnet18",
    ),
    "unknown network of timm": (
        {"evaluate": {"students": ["timm:swin_tinny"]}},
        r"unknown network 'timm:swin_tinny'; timm has",
    ),
    "unknown library": ({"backbones": ["keras:vgg"]}, r"unknown network 'keras:vgg'; .*timm:<name> or torchvision:<name>"),
    "weights neither a file nor a name": (
        {"backbones": [{"name": "convnet", "weights": "the good ones"}]},
        r"backbones\[0\]\.weights: expected a file that ends in .*or the name of published weights, got 'the good ones'",
    ),
    "weights by name of an own network": (
        {"backbones": [{"name": "convnet", "weights": "IMAGENET1K_V1"}]},
        r"backbones\[0\]: weights: expected a \.pth, .* file, got 'IMAGENET1K_V1'; only the networks of torchvision and timm",
    ),
    "torchvision's weights by timm's name": (
        {"backbones": [{"name": "torchvision:resnet18", "weights": "pretrained"}]},
        r"backbones\[0\]: weights: expected a name of torchvision's \(IMAGENET1K_V1, \.\.\.\), or a file, got 'pretrained'",
    ),
    "timm's weights by torchvision's name": (
        {"backbones": [{"name": "timm:resnet18", "weights": "IMAGENET1K_V1"}]},
        r"backbones\[0\]: weights: expected `pretrained` or a tag of timm's \(ra_in1k, \.\.\.\), or a file",
    ),
    "unknown subset": (
        {"source": {"kind": "imagenet", "train": "a", "val": "a", "classes": "imagenete"}},
        r"source\.classes: unknown subset 'imagenete'; did you mean 'imagenette'\? choose from imagenette, .*, or list",
    ),
    "no WordNet id": (
        {"source": {"kind": "imagenet", "train": "a", "val": "a", "classes": ["n01440764", "tench"]}},
        r"source\.classes\[1\]: expected a WordNet id such as n01440764, got 'tench'",
    ),
    "a class twice": (
        {"source": {"kind": "imagenet", "train": "a", "val": "a", "classes": ["n01440764", "n01440764"]}},
        r"source\.classes: expected every class once, got n01440764 more often; remove it",
    ),
    "another number of classes": (
        {"classes": 1000, "source": {"kind": "imagenet", "train": "a", "val": "a", "classes": "imagewoof"}},
        r"classes: expected 10, as source\.classes has, got 1000; correct one of them",
    ),
    "a ground truth of both splits": (
        {"source": {"kind": "imagenet", "train": "a", "val": "a", "ground_truth": "kit"}},
        r"source.*ground_truth: expected off where train and val are one folder or archive; remove it",
    ),
    "files of a source without any": ({"storage": "files"}, r"storage: expected packed for .* kind digits, got files"),
    "unknown storage": ({"storage": "disk"}, r"storage: expected 'packed' or 'files', got 'disk'"),
    "resized below the image": (
        {"resize": 8, "image_size": 16},
        r"resize: expected at least image_size \(16\), got 8",
    ),
    "patches above the image": (
        {"statistics": {"patch_size": 9}, "image_size": 8},
        r"tiny\.yaml: statistics\.patch_size: expected at most image_size \(8\), got 9; lower it",
    ),
    "padding above the image": ({"augment": {"pad": 9}}, r"tiny\.yaml: augment\.pad: expected at most image_size \(8\), got 9"),
    "more parts than views in a batch": (
        {"evaluate": {"accumulate": 17}},
        r"tiny\.yaml: evaluate\.accumulate: expected at most 16, the views of a batch of 'convnet', got 17; lower it, or raise",
    ),
    "more parts than views in a batch of one student": (
        {"evaluate": {"students": ["convnet", {"name": "wrn16_2", "evaluate": {"batch_size": 3, "accumulate": 4}}]}},
        r"evaluate\.accumulate: expected at most 3, the views of a batch of 'wrn16_2', got 4; lower it",
    ),
    "unknown student": ({"evaluate": {"students": ["lenet5"]}}, r"evaluate\.students\[0\]: unknown network 'lenet5'"),
    "unknown option": (
        {"backbones": [{"name": "convnet", "options": {"widht": 3}}]},
        r"backbones\[0\]: unknown option 'widht' of convnet; choose from width, depth, norm",
    ),
    "misspelt override": (
        {"backbones": [{"name": "convnet", "sqeeze": {"lr": 0.1}}]},
        r"backbones\[0\]: unknown setting 'sqeeze'",
    ),
    "misspelt key of an override": (
        {"backbones": [{"name": "convnet", "squeeze": {"rl": 0.1}}]},
        r"backbones\[0\]\.squeeze: unknown setting 'rl'",
    ),
    "backbone twice": (
        {"backbones": ["convnet", "convnet"]},
        r"backbones: 'convnet' appears twice; give one of them another label",
    ),
    "no backbones": ({"backbones": []}, r"backbones: expected at least 1 item"),
    "backbone is a number": ({"backbones": [3]}, r"backbones\[0\]: unknown network 3"),
    "backbones are text": ({"backbones": "convnet"}, r"backbones: expected a valid list, got 'convnet'"),
    "no students": ({"evaluate": {"students": []}}, r"evaluate\.students: expected at least 1 item"),
    "label leaves the store": (
        {"backbones": [{"name": "convnet", "label": "../x"}]},
        r"backbones\[0\]\.label: expected.*got '\.\./x'",
    ),
    "misspelt key of every student": (
        {"evaluate": {"epohcs": 3}},
        r"tiny\.yaml: evaluate: unknown setting 'epohcs'; did you mean",
    ),
    "text for a number": ({"squeeze": {"epochs": "five"}}, r"squeeze\.epochs: expected a valid integer, got 'five'"),
    "number in quotes": ({"squeeze": {"lr": "0.1"}}, r"squeeze\.lr: expected a valid number, got '0\.1'"),
    "fraction for a count": ({"recover": {"iterations": 10.5}}, r"recover\.iterations: expected a valid integer.*got 10\.5"),
    "true for a number": ({"relabel": {"epochs": True}}, r"relabel\.epochs: expected a valid integer, got true"),
    "number for true": ({"relabel": {"flip": 1}}, r"relabel\.flip: expected a valid boolean, got 1"),
    "list for a section": ({"relabel": [1, 2]}, r"relabel: expected settings by name, got"),
    "nothing for a source": ({"source": None}, r"tiny\.yaml: source: expected settings by name, got null; correct the value"),
    "list for an option": (
        {"backbones": [{"name": "convnet", "options": {"depth": [1]}}]},
        r"backbones\[0\]\.options\.depth: expected true, false, a number or a text, got \[1\]; correct the value",
    ),
    "infinite option": (
        {"evaluate": {"students": [{"name": "convnet", "options": {"width": float("inf")}}]}},
        r"students\[0\]\.options\.width: expected true, false, a number or a text, got \.inf",
    ),
    "layers twice": (
        {"recover": {"layers": ["conv", "conv"]}},
        r"recover\.layers: expected every entry once, got 'conv' more often; remove it",
    ),
    "statistics twice": (
        {"recover": {"conv_statistics": ["patch", "channel", "patch"]}},
        r"recover\.conv_statistics: expected every entry once, got 'patch' more often; remove it",
    ),
    "nothing for a section": ({"squeeze": None}, r"squeeze: expected settings by name, got null"),
    "negative rate": ({"squeeze": {"lr": -0.1}}, r"squeeze\.lr: expected greater than 0, got -0\.1"),
    "zero epochs": ({"squeeze": {"epochs": 0}}, r"squeeze\.epochs: expected greater than or equal to 1, got 0"),
    "huge epochs": (
        {"evaluate": {"epochs": 10**12}},
        r"evaluate\.epochs: expected less than or equal to 100000, got 1000000000000",
    ),
    "not a number": ({"recover": {"lr": float("nan")}}, r"recover\.lr: expected.*got \.nan"),
    "infinite": ({"recover": {"statistics_weight": float("inf")}}, r"recover\.statistics_weight: expected.*got \.inf"),
    "negative seed": ({"evaluate": {"seeds": [0, -1]}}, r"evaluate\.seeds\[1\]: expected greater than or equal to 0, got -1"),
    "seeds are a number": ({"evaluate": {"seeds": 3}}, r"evaluate\.seeds: expected a valid list, got 3"),
    "probability above one": (
        {"recover": {"conv_drop": 1.4}},
        r"recover\.conv_drop: expected less than or equal to 1, got 1\.4",
    ),
    "unknown choice": ({"recover": {"quantise": "floor"}}, r"recover\.quantise: expected 'truncate' or 'round', got 'floor'"),
    "unknown loss": ({"evaluate": {"loss": "l1"}}, r"evaluate\.loss: expected 'mse', 'kl', 'dist' or 'gift', got 'l1'"),
    "kl without temperature": ({"evaluate": {"loss": "kl"}}, r"evaluate: temperature: expected exactly when loss is kl"),
    "sgd without momentum": (
        {"evaluate": {"optimizer": "sgd", "momentum": None}},
        r"evaluate: momentum: expected exactly when optimizer is sgd, got null with sgd; set it to a number \(0: none\)",
    ),
    "adamw with momentum": (
        {"squeeze": {"optimizer": "adamw", "momentum": 0.9}},
        r"squeeze: momentum: expected exactly when optimizer is sgd, got 0\.9 with adamw; set it to null",
    ),
    "statistics of classes of mixed views": (
        {"recover": {"views": "relabel", "class_statistics": 0.5}, "relabel": {"mix": "cutmix"}},
        r"recover\.views: expected off where class_statistics are matched, .*; set either to null, or relabel\.mix to none",
    ),
    "logits rescaled online in other batches": (
        {"relabel": {"online": True, "rescale_logits": True}, "evaluate": {"batch_size": 3}},
        r"relabel\.online: with rescale_logits, expected students in whole batches of \d+, .* got others for 'convnet'",
    ),
    "too few std": ({"std": [0.3, 0.3]}, r"std: expected one value per channel \(1, as mean has\), got 2"),
    "zero std": ({"std": [0.0]}, r"std\[0\]: expected greater than 0, got 0\.0"),
    "tiny images": ({"image_size": 4}, r"image_size: expected greater than or equal to 8, got 4"),
    "one class": ({"classes": 1}, r"classes: expected greater than or equal to 2, got 1"),
    "two crops": ({"augment": {"resized_crop": [0.5, 1.0]}}, r"augment: expected one of pad and resized_crop, got both"),
    "shares as percent": ({"relabel": {"scale": [8, 100]}}, r"relabel\.scale\[0\]: expected less than or equal to 1, got 8"),
    "the most before the least": (
        {"augment": {"pad": None, "resized_crop": [1.0, 0.08]}},
        r"augment\.resized_crop: expected the smaller value first, got \[1\.0, 0\.08\]; swap the two",
    ),
    "the same seed twice": (
        {"evaluate": {"seeds": [0, 1, 0]}},
        r"evaluate\.seeds: expected different seeds, .*, got \[0, 1, 0\]",
    ),
    "candidates of which any is taken": (
        {"select": SELECT | {"candidates": 5}},
        r"select: candidates: expected 1 with choose: random, which takes any, got 5; set it to 1",
    ),
    "resize of what is not resized": (
        {"resize": 16},
        r"resize: expected off for a source of kind digits, whose images are not cropped; remove it",
    ),
    "batch smaller than a group": (
        {"recover": {"batch_size": 1}},
        r"recover: batch_size: expected at least group \(2\), got 1",
    ),
    "statistics of classes without weight": (
        {"recover": {"statistics_weight": 0.0, "class_statistics": 0.5}},
        r"recover: class_statistics: expected off where statistics_weight is 0; set it to null, or raise the weight",
    ),
    "a share of statistics without weight": (
        {"recover": {"statistics_weight": 0.0, "keep": {"share": 0.5, "by": "random"}}},
        r"recover: keep: expected off where statistics_weight is 0; set it to null, or raise the weight",
    ),
    "a weight of variances that are not matched": (
        {"recover": {"statistics_weight": 0.0, "variance_weight": 11.0}},
        r"recover: variance_weight: expected off where statistics_weight is 0; set it to null, or raise the weight",
    ),
    "kept epoch beyond the last": (
        {"squeeze": {"keep_epoch": 9}},
        r"squeeze: keep_epoch: expected at most epochs \(2\), got 9",
    ),
    "steps without milestones": (
        {"squeeze": {"schedule": "step", "gamma": 0.5}},
        r"squeeze: milestones: expected exactly with schedule: step, got null with step; give milestones",
    ),
    "steps without a factor": (
        {"evaluate": {"schedule": "step", "milestones": [0.5]}},
        r"evaluate: gamma: expected exactly with schedule: step, got null with step; give gamma",
    ),
    "milestones of a cosine": (
        {"evaluate": {"milestones": [0.5], "gamma": 0.5}},
        r"evaluate: milestones: expected exactly with schedule: step, got \[0\.5\] with cosine; remove milestones",
    ),
    "milestones in disorder": (
        {"squeeze": {"schedule": "step", "milestones": [0.9, 0.8], "gamma": 0.5}},
        r"squeeze: milestones: expected each above the one before, got \[0\.9, 0\.8\]; put them in order",
    ),
    "milestones as epochs": (
        {"squeeze": {"schedule": "step", "milestones": [800], "gamma": 0.5}},
        r"squeeze\.milestones\[0\]: expected less than 1, got 800",
    ),
    "a stretched step": (
        {"evaluate": {"schedule": "step", "milestones": [0.5], "gamma": 0.5, "stretch": 2.0}},
        r"evaluate: stretch: expected only with schedule: cosine, got schedule: step; set it to null",
    ),
    "unknown source": (
        {"source": {"kind": "cifar11"}},
        r"source: unknown kind 'cifar11'; did you mean 'cifar10'\? choose from digits, cifar10, ",
    ),
    "extends nothing": (
        {"extends": "digitz"},
        r"tiny\.yaml: extends: unknown data set 'digitz'; did you mean 'digits'\? choose from cifar10, cifar100, digits",
    ),
    "extends itself": ({"extends": "tiny"}, r"extends itself by way of tiny -> tiny; remove one extends"),
    "extends a list": ({"extends": ["digits"]}, r"extends: expected the name of a data set"),
    "a section without all that it needs": (
        {"select": {"choose": "random", "crops": 1}},
        r"tiny\.yaml: select: expected threads, precision, candidates, scale, cells, seed, got none of them; add these",
    ),
    "a section without one": (
        {"select": {"choose": "random", "crops": 1, "candidates": 1, "scale": [1, 1], "cells": 1, "seed": 0, "threads": 1}},
        r"tiny\.yaml: select\.precision: expected a value, got none; add this setting$",
    ),
    "off instead of null": ({"select": False}, r"select: expected settings by name, got false; .* switched off by null$"),
    "none instead of null": ({"relabel": {"coding": {"top": "none"}}}, r"got 'none'; .* switched off by null$"),
}


@pytest.mark.parametrize("mistake", ROW_MISTAKES)
def test_mistakes_in_a_row(mistake, workspace, edit_row, capsys):
    changes, expected = ROW_MISTAKES[mistake]
    edit_row(changes)
    assert_one_line(*run(capsys, "explain", TARGET), expected)
    assert not Path("results").exists()


STEP = {"schedule": "step", "milestones": [0.5], "gamma": 0.5}
# (changes by a recipe of what the row's students inherit, pattern of the error line)
INHERITED_MISTAKES = {
    "steps without milestones": ({"schedule": "step"}, r"milestones: expected exactly with schedule: step, got null"),
    "milestones of a cosine": ({"milestones": [0.5], "gamma": 0.5}, "milestones: expected exactly"),
    "disorder": (STEP | {"milestones": [0.5, 0.25]}, "milestones: expected each above"),
    "a stretched step": (STEP | {"stretch": 2.0}, "stretch: expected only with"),
    "sgd without momentum": ({"optimizer": "sgd"}, "momentum: expected exactly when"),
    "kl without temperature": ({"loss": "kl"}, "temperature: expected exactly when"),
}


@pytest.mark.parametrize("mistake", INHERITED_MISTAKES)
def test_a_mistake_that_students_inherit_is_the_recipes(mistake, workspace, edit_row, capsys):
    changes, expected = INHERITED_MISTAKES[mistake]
    edit_row({"evaluate": {"students": [{"name": "convnet"}, {"name": "convnet", "label": "other", "evaluate": {"lr": 0.1}}]}})
    Path("config/recipes/wrong.yaml").write_text(yaml.safe_dump({"evaluate": changes}))
    place = r"^gvbsm: config/recipes/wrong\.yaml: evaluate: "
    assert_one_line(*run(capsys, "explain", "results/tiny/ipc4-wrong/acc.json"), place + expected)


def test_a_mistake_of_one_student_is_that_students(workspace, edit_row, capsys):
    edit_row({"evaluate": {"students": ["convnet", {"name": "convnet", "label": "other", "evaluate": {"schedule": "step"}}]}})
    place = r"config/datasets/tiny\.yaml: evaluate\.students\[1\]\.evaluate: "
    assert_one_line(*run(capsys, "explain", TARGET), place + "milestones: expected exactly")


TARGET_MISTAKES = {
    "results/tiny/ipc0/acc.json": r"run 'ipc0': expected 1 to 100000 images per class, got 0",
    "results/tiny/ipc-3/acc.json": r"run 'ipc-3': expected 1 to 100000 images per class, got -3",
    "results/tiny/ipc04/acc.json": r"run 'ipc04': expected ipc<N>",
    "results/tiny/10/acc.json": r"run '10': expected ipc<N> or ipc<N>-<recipe>",
    "results/tiny": r"expected results/<dataset>/ipc<N>\[-<recipe>\] or a file of it \(acc\.json, .*>\.png\); correct",
    "results/compare.csv": r"target 'results/compare\.csv': .*>\.png\); correct",
    "results/tiny/compare.csv": r"run 'compare\.csv': expected ipc<N>",
    "results/logs/ipc4": r"data set 'logs': expected another name, since results/logs is a folder of our own; choose another",
    "results/tracking/ipc4": r"data set 'tracking': expected another name",
    "results/tiny/ipc4/other.csv": r"target 'results/tiny/ipc4/other\.csv': expected results/<dataset>/ipc<N>",
    "results/tiny/ipc4/repotr.html": r"report\.html or pictures/.*; did you mean 'results/tiny/ipc4/report\.html'\? correct",
    "tiny/ipc4": r"target 'tiny/ipc4': expected results/<dataset>/ipc<N>.*did you mean 'results/tiny/ipc4/acc\.json'\?",
    "results/tinny/ipc4/acc.json": r"unknown data set 'tinny'; did you mean 'tiny'\? choose from cifar10, .*, tiny, ",
    "results/tiny/ipc4-sre2/acc.json": r"unknown recipe 'sre2'; .*choose from",
    "results/tiny/results": r"run 'results': expected ipc<N>",
    "results/../ipc4/acc.json": r"target 'results/\.\./ipc4/acc\.json': expected results/<dataset>/",
}


@pytest.mark.parametrize("target", TARGET_MISTAKES)
def test_mistakes_in_a_target(target, workspace, capsys):
    assert_one_line(*run(capsys, "explain", target), TARGET_MISTAKES[target])


FILE_MISTAKES = {
    "not YAML": (b"classes: [1, 2\nmean: 3", r"tiny\.yaml:\d: not valid YAML"),
    "a key twice": (b"extends: digits\nclasses: 10\nclasses: 11\n", r"tiny\.yaml:3: not valid YAML: 'classes' appears twice"),
    "a list": (b"- 1\n- 2\n", r"tiny\.yaml: expected settings \(key: value\), got \[1, 2\]"),
    "empty": (b"", r"tiny\.yaml: expected settings \(key: value\), got null"),
    "not text": (b"\xff\xfe\x00", r"tiny\.yaml:1: expected text in UTF-8, got the byte 0xff; save the file as UTF-8"),
    "Latin-1": ("extends: digits\n# Café\n".encode("latin-1"), r"tiny\.yaml:2: expected text in UTF-8, got the byte 0xe9"),
}


@pytest.mark.parametrize("mistake", FILE_MISTAKES)
def test_mistakes_in_a_file(mistake, workspace, capsys):
    content, expected = FILE_MISTAKES[mistake]
    Path("config/datasets/tiny.yaml").write_bytes(content)
    assert_one_line(*run(capsys, "explain", TARGET), expected)


PREPARE = {
    "stage": "prepare",
    "source": {"kind": "digits", "seed": 0, "test_fraction": 0.2},
    "classes": 10,
    "image_size": 8,
    "channels": 1,
    "resize": 8,
    "storage": "packed",
}
RELABEL = {
    "stage": "relabel",
    "inputs": {"teachers": ["squeeze/x.safetensors"]},
    "epochs": [0, 1],
    "pixels": {"image_size": 8, "mean": [0.5], "std": [0.5]},
    "settings": {
        **{
            "batch_size": 4,
            "scale": [0.5, 1.0],
            "ratio": [0.75, 1.33],
            "flip": False,
            "mix": "none",
            "mix_alpha": 1.0,
            "seed": 0,
        },
        **{
            "threads": 1,
            "precision": "float32",
            "mixup_labels": "mixed",
            "rescale_logits": False,
            "coding": {"values": "float16"},
        },
    },
}
COMMAND_MISTAKES = {
    "spec is no JSON, reported before the missing --out": (
        ["prepare", "--spec", "{oops"],
        r"--spec: expected JSON, got an error",
    ),
    "spec is no file": (["prepare", "--spec", "nowhere.json", "--out", "x"], r"--spec: .*'nowhere\.json' \(No such file"),
    "no spec": (["prepare", "--out", "x"], r"--spec: expected a plan file or JSON text, got none"),
    "no out": (["prepare", "--spec", json.dumps(PREPARE)], r"--out: expected the file to write, got none"),
    "spec of another stage": (
        ["squeeze", "--spec", json.dumps(PREPARE), "--out", "x"],
        r"stage: expected 'squeeze', got 'prepare'",
    ),
    "spec is a list": (["prepare", "--spec", '{"spec": [1]}', "--out", "x"], r"stage: expected 'prepare', got null"),
    "spec lacks an entry": (
        ["prepare", "--spec", json.dumps({n: v for n, v in PREPARE.items() if n != "classes"}), "--out", "x"],
        r"classes: expected a value, got none",
    ),
    "spec has an unknown entry": (
        ["prepare", "--spec", json.dumps(PREPARE | {"sise": 3}), "--out", "x"],
        r"unknown setting 'sise'",
    ),
    "spec of wrong type": (
        ["prepare", "--spec", json.dumps(PREPARE | {"classes": "ten"}), "--out", "x"],
        r"classes: expected.*'ten'",
    ),
    "unknown stage": (["prepair"], r"invalid choice: 'prepair'"),
    "unknown option": (["prepare", "--spek", "{}"], r"unrecognized arguments: --spek"),
    "an option alone": (["--specs"], r"(COMMAND|--specs)"),
    "workers that are no number": (["prepare", "--workers", "-1"], r"--workers: expected a whole .* got '-1'; .*GVBSM_WORKERS"),
    "option of wrong type": (["prepare", "--checkpoint-seconds", "soon"], r"--checkpoint-seconds: invalid float value: 'soon'"),
    "negative interval": (
        ["prepare", "--spec", json.dumps(PREPARE), "--out", "x", "--checkpoint-seconds", "-1"],
        r"--checkpoint-seconds: expected at least 0, got -1",
    ),
    "other code": (
        ["prepare", "--spec", json.dumps(PREPARE | {"code": {"gvbsm.stages.prepare": "0000000000"}}), "--out", "x"],
        r"code: gvbsm\.stages\.prepare has changed since this was planned; run snakemake again, or rebuild the environment",
    ),
    "three channels of grey digits": (
        ["prepare", "--spec", json.dumps(PREPARE | {"channels": 3}), "--out", "x"],
        r"expected one channel",
    ),
    "neither images nor random ones": (
        ["relabel", "--spec", json.dumps(RELABEL), "--out", "x"],
        r"expected one of inputs\.images and random, got none; correct the spec",
    ),
    "wrong number of classes": (
        ["prepare", "--spec", json.dumps(PREPARE | {"classes": 9}), "--out", "x"],
        r"digits: expected 9 classes, got 10; correct `classes` in the row",
    ),
    "the beginning of an option": (["gc", "--delet"], "unrecognized arguments: --delet"),
}


@pytest.mark.parametrize("mistake", COMMAND_MISTAKES)
def test_mistakes_in_a_command(mistake, workspace, capsys):
    arguments, expected = COMMAND_MISTAKES[mistake]

    def files():
        # Whose job it was and why it failed stays beside the lock, for `gvbsm status`.
        beside = (".lock", ".progress.json")
        return {path for path in Path().rglob("*") if path.is_file() and not path.name.endswith(beside)}

    before = files()
    assert_one_line(*run(capsys, *arguments), expected)
    assert files() == before


def image_folder(root: Path, classes: dict[str, int]) -> None:
    for split in ("train", "test"):
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((9, 12, 3), 20 * index, np.uint8)).save(folder / f"{index}.png")


FOLDER_MISTAKES = {
    "no folder": (lambda root: None, r"mine: expected a folder or an archive \(.*\), got nothing there; put it there"),
    "a class without images": (
        lambda root: image_folder(root, {"cat": 2, "dog": 0}),
        r"mine: train: expected images in every class, got none in 'dog'; add some",
    ),
    "no images at all": (
        lambda root: image_folder(root, {"cat": 0, "dog": 0}),
        r"mine: expected images in its class folders, got none",
    ),
    "a class in one split only": (
        lambda root: (image_folder(root, {"cat": 2, "dog": 2}), (root / "train" / "cow").mkdir()),
        r"expected the same classes in train and test, got 'cow' in one",
    ),
    "a file that is no image": (
        lambda root: (image_folder(root, {"cat": 2, "dog": 2}), (root / "train" / "cat" / "x.jpg").write_text("no")),
        r"mine/train/cat/x\.jpg: expected an image",
    ),
    "no test split": (
        lambda root: (root / "train" / "cat").mkdir(parents=True),
        r"mine: expected a folder test or val or valid of class folders, got none; put the images there",
    ),
    "another number of classes": (lambda root: image_folder(root, {"cat": 2}), r"mine: expected 2 classes, got 1"),
}


def test_several_files_that_are_no_images_are_named_and_counted(workspace, capsys):
    root = Path("data/mine")
    image_folder(root, {"cat": 2, "dog": 2})
    for number in range(7):
        (root / ("train" if number else "test") / "dog" / f"x{number}.jpg").write_text("no")
    spec = PREPARE | {"source": {"kind": "imagefolder", "path": "mine"}, "classes": 2, "channels": 3}
    done = run(capsys, "prepare", "--spec", json.dumps(spec), "--out", "results/x.safetensors")
    rest = r"\(7 files in all: then \S+train/dog/x1\.jpg, \S+x2\.jpg, \S+x3\.jpg, \S+x4\.jpg, \.\.\.\)$"
    assert_one_line(*done, rf"^gvbsm: source: \S+mine/test/dog/x0\.jpg: expected an image, got .* {rest}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": 9}, r"^gvbsm: config/datasets/tiny\.yaml: classes: digits: expected 9 classes, got 10; correct"),
        (
            {"source": {"kind": "imagefolder", "path": "mine"}},
            r"^gvbsm: config/datasets/tiny\.yaml: source: data/mine: expected a folder or an archive \(.*\), got nothing there",
        ),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, r"^gvbsm: config/datasets/digits\.yaml: source: digits: expected one channel"),
    ],
)
def test_what_a_data_set_lacks_names_the_file_of_the_row(changes, expected, workspace, edit_row, capsys):
    edit_row({"classes": 9, "source": {"kind": "imagefolder", "path": "elsewhere"}})  # a row that is no longer so is not named
    write_plans(plan("tiny", 4), Path(TARGET))
    Path("config/datasets/tiny.yaml").write_text("extends: digits\n")
    edit_row(changes)
    artifacts = plan("tiny", 4)
    write_plans(artifacts, Path(TARGET))
    assert_one_line(*run(capsys, *stage_command(artifacts[0])), expected)


@pytest.mark.parametrize("mistake", FOLDER_MISTAKES)
def test_mistakes_in_an_image_folder(mistake, workspace, capsys):
    build, expected = FOLDER_MISTAKES[mistake]
    build(Path("data/mine"))
    spec = PREPARE | {"source": {"kind": "imagefolder", "path": "mine"}, "classes": 2, "channels": 3}
    assert_one_line(*run(capsys, "prepare", "--spec", json.dumps(spec), "--out", "results/x.safetensors"), expected)
    assert not list(Path().rglob("x.*s*"))


def stage_command(artifact) -> list[str]:
    return [
        artifact.stage,
        "--spec",
        f"results/.plan/{artifact.key}.json",
        "--out",
        str(STORE / artifact.path),
        "--device",
        "cpu",
    ]


def store_files() -> set[Path]:
    return set(STORE.rglob("*")) if STORE.exists() else set()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated artifact": (
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        r"prepare/.*safetensors: damaged: expected \d+ bytes, got \d+; rebuild",
    ),
    "flipped bit": (flip_a_bit, r"damaged: its content is not what its receipt says; rebuild it with: rm -f .*&& snakemake"),
    "missing artifact": (Path.unlink, r"safetensors: missing; rebuild it with: rm -f .*&& snakemake"),
    "missing receipt": (
        lambda path: path.with_suffix(".json").unlink(),
        r"json: missing; rebuild it with: rm -f .*&& snakemake",
    ),
    "altered receipt": (
        lambda path: path.with_suffix(".json").write_text(
            path.with_suffix(".json").read_text().replace('"bytes": ', '"bytes": 1')
        ),
        r"json: damaged receipt: its text is not what was written; rebuild it with: rm -f .*&& snakemake",
    ),
    "receipt that is no JSON": (lambda path: path.with_suffix(".json").write_text("{"), r"damaged receipt"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_inputs_are_refused(damage, published_run, capsys):
    write_plans(plan("tiny", 4), Path(TARGET))
    harm, expected = DAMAGE[damage]
    squeeze = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    (STORE / squeeze.path).unlink()
    (STORE / squeeze.path).with_suffix(".json").unlink()
    harm(STORE / published_run[0].path)
    before = store_files()
    assert_one_line(*run(capsys, *stage_command(squeeze)), expected)
    assert store_files() == before


def test_too_few_images_for_the_random_baseline(workspace, make_up_to, make_artifact, capsys):
    """Also where the job that checks for it was left out."""
    planned = plan("tiny", 500)
    write_plans(planned, Path("results/tiny/ipc500/acc.json"))
    make_up_to("prepare", ipc=500)
    for artifact in planned:
        if artifact.stage == "squeeze":
            make_artifact(artifact)
    capsys.readouterr()  # the progress of making them
    for job in ("check", "relabel"):
        asked = next(artifact for artifact in planned if artifact.stage == job and "distilled" not in artifact.name)
        message = r"random baselines: expected at least 500 training images in every class, got \d+ in class '\d'"
        assert_one_line(*run(capsys, *stage_command(asked)), message)


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
@pytest.mark.parametrize("where", ["artifact", "receipt"])
def test_a_full_disk_and_a_read_only_folder(number, reason, where, workspace, monkeypatch, capsys):
    write_plans(plan("tiny", 4), Path(TARGET))
    prepare = plan("tiny", 4)[0]
    real = disk.os.fsync
    calls = iter(range(10))

    def failing(descriptor):
        if next(calls) == (0 if where == "artifact" else 1):
            raise OSError(number, "No space left on device" if number == errno.ENOSPC else "Read-only file system")
        real(descriptor)

    monkeypatch.setattr(disk.os, "fsync", failing)
    assert_one_line(*run(capsys, *stage_command(prepare)), rf"cannot be written: {reason}.*free space or make")
    left = {path.name for path in store_files() if path.is_file()}
    assert left <= {Path(prepare.path).name}, "a temporary file or a receipt without its artifact was left"
    assert where == "receipt" or not left


def test_a_results_folder_that_cannot_be_written(workspace, capsys):
    Path("results").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"^results: expected a folder, got a file; move it away$"):
        write_plans(plan("tiny", 4), Path(TARGET))


def test_a_device_that_is_not_there(workspace, capsys):
    write_plans(plan("tiny", 4), Path(TARGET))
    planned = plan("tiny", 4)
    assert run(capsys, *stage_command(planned[0]))[0] == 0
    squeeze = next(artifact for artifact in planned if artifact.stage == "squeeze")
    assert_one_line(
        *run(capsys, *stage_command(squeeze)[:-1], "tpu"),
        r"--device or GVBSM_DEVICE: expected one of auto, .*cpu on this machine, got 'tpu'",
    )


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"name": "resnet18_in"}, "resnet18_in"),
        ({"name": "convnet", "options": {"width": -1}}, "convnet with options {width: -1}"),
        ({"name": "convnet", "options": {"width": "wide"}}, "convnet with options {width: wide}"),
    ],
)
def test_networks_that_cannot_be_built(network, reason, workspace, edit_row, capsys):
    edit_row({"backbones": [network]})
    planned = plan("tiny", 4)
    write_plans(planned, Path(TARGET))
    assert run(capsys, *stage_command(planned[0]))[0] == 0
    assert_one_line(*run(capsys, *stage_command(planned[1])), rf"network {re.escape(reason)}.*; correct the row")


def test_plans_that_are_missing_or_of_another_key(workspace, capsys):
    planned = plan("tiny", 4)
    write_plans(planned, Path(TARGET))
    teacher = next(artifact for artifact in planned if artifact.stage == "squeeze")
    path = plan_file(teacher.key)
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 3'))
    with pytest.raises(UserError, match="expected the plan of"):
        read_plan(teacher.key)
    with pytest.raises(UserError, match="missing or damaged plan"):
        read_plan("0123456789")


def test_a_variable_of_wrong_type_is_named(workspace, monkeypatch, capsys):
    monkeypatch.setenv("GVBSM_WORKERS", "abc")
    assert_one_line(*run(capsys, "prepare"), r"--workers: expected a whole .*, got 'abc'; correct it or GVBSM_WORKERS")


@pytest.mark.parametrize("kind", ["datasets", "recipes"])
def test_a_row_of_another_suffix_is_named(kind, workspace, capsys):
    Path(f"config/{kind}/mine.yml").write_text("extends: digits\n")
    target = "results/mine/ipc4" if kind == "datasets" else "results/tiny/ipc4-mine"
    assert_one_line(*run(capsys, "explain", target), rf"unknown .* 'mine'; rename config/{kind}/mine\.yml to mine\.yaml$")


def test_a_recipe_may_have_the_name_of_a_folder(workspace, capsys):
    Path("config/recipes/store.yaml").write_text("squeeze: {epochs: 1}\n")
    assert cli.main(["explain", f"{TARGET[:-9]}-store"]) == 0


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (["init", "new"], "exists"),
        (["verify"], "is_dir"),
        (["settings", "--refresh", "config"], "write_text"),
    ],
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_the_system_forbids_is_one_line(command, method, number, workspace, monkeypatch, capsys):
    Path("config/schema/row.json").unlink()
    real = getattr(Path, method)

    def failing(path, *arguments, **named):
        if path.is_relative_to(PACKAGE):
            return real(path, *arguments, **named)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, method, failing)
    expected = rf"gvbsm: \S+: cannot be (read or )?written: {os.strerror(number)}; "
    assert_one_line(*run(capsys, *command), expected)


@pytest.mark.parametrize(
    "content",
    [{"provenance": None}, {"provenance": []}, {"provenance": {"spec": None, "artifacts": 3}}, {"provenance": {}}, []],
)
def test_explain_takes_any_acc_json(content, workspace, capsys):
    Path(TARGET).parent.mkdir(parents=True)
    Path(TARGET).write_text(json.dumps(content))
    assert cli.main(["explain", TARGET]) == 0
    assert " 0 present, " in f" {capsys.readouterr().out.splitlines()[-1]}"


def test_a_plan_that_is_no_text_is_written_again(workspace):
    planned = plan("tiny", 4)
    write_plans(planned, Path(TARGET))
    path = plan_file(planned[0].key)
    before = path.read_bytes()
    path.write_bytes(b"\xff" + before)
    write_plans(planned, Path(TARGET))
    assert path.read_bytes() == before


def test_there_are_at_least_forty_mistakes():
    tables = (ROW_MISTAKES, TARGET_MISTAKES, FILE_MISTAKES, COMMAND_MISTAKES, FOLDER_MISTAKES, DAMAGE)
    assert sum(map(len, tables)) >= 40
