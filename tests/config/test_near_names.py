"""Unknown names of networks: the error names the likest ones, of this package and of the libraries."""

import subprocess
import sys

import pytest

from gvbsm.config.networks import check, near


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resent18", "resnet18"),
        ("ResNet18", "resnet18"),
        ("shufflenetv2", "shufflenet_v2"),
        ("resnet34", "timm:resnet34"),
        ("efficentnet_b0", "timm:efficientnet_b0"),
        ("vit_tiny", "timm:vit_tiny_patch16_224"),
        ("timm:resnet1888", "timm:resnet18"),
        ("timm:convnext_tny.fb_in1k", "timm:convnext_tiny"),
        ("tim:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"),
        ("torchvison:resnet18", "torchvision:resnet18"),
        ("torchvision:ResNet50", "torchvision:resnet50"),
        ("torchvision:mobilenetv2", "torchvision:mobilenet_v2"),
    ],
)
def test_near_names_come_first(name, first):
    names = near(name)
    assert names[0] == first and 1 <= len(names) <= 3
    with pytest.raises(ValueError, match="unknown network") as error:
        check(name, {})
    assert f"did you mean {first}" in str(error.value)


def test_an_exact_name_of_both_libraries_stands_alone():
    assert near("resnet34") == ["timm:resnet34", "torchvision:resnet34"]


def test_a_prefix_keeps_to_its_library():
    assert all(name.startswith("torchvision:") for name in near("torchvision:resnext50"))


@pytest.mark.parametrize("name", ["zzzzz", "3", "timm:", ""])
def test_nothing_is_suggested_for_what_is_like_nothing(name):
    assert near(name) == []
    with pytest.raises(ValueError, match="unknown network") as error:
        check(name, {})
    assert "did you mean" not in str(error.value)


def test_every_suggestion_exists():
    for name in ("resnet", "vit_base", "timm:swin", "torchvision:vgg"):
        for suggestion in near(name):
            check(suggestion, {})


def test_looking_names_up_imports_no_library():
    program = (
        "import sys; from gvbsm.config.networks import near; near('resent18'); print({'torch', 'timm'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "set()"
