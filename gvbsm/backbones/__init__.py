"""Networks by name: ours for small images, and those of libraries. A registry alone, so that planning imports it without torch.

The planner reads a builder's keyword-only parameters from its syntax tree: every option is a named parameter with a default.
"""

BACKBONES = {
    "convnet": "gvbsm.backbones.convnet:convnet",
    "convnet_bn": "gvbsm.backbones.convnet:convnet_bn",
    "resnet10": "gvbsm.backbones.resnet:resnet10",
    "resnet18": "gvbsm.backbones.resnet:resnet18",
    "resnet18_in": "gvbsm.backbones.resnet:resnet18_in",
    "resnet18_gn": "gvbsm.backbones.resnet:resnet18_gn",
    "resnet50": "gvbsm.backbones.resnet:resnet50",
    "resnet101": "gvbsm.backbones.resnet:resnet101",
    "mobilenet_v2": "gvbsm.backbones.mobilenet_v2:mobilenet_v2",
    "wrn16_2": "gvbsm.backbones.wrn:wrn16_2",
    "shufflenet_v2": "gvbsm.backbones.shufflenet_v2:shufflenet_v2",
}

# Prefix of a name -> builder that takes the rest of the name as `model`, and any option the library has for it.
LIBRARIES = {
    "timm": "gvbsm.backbones.from_timm:build",
    "torchvision": "gvbsm.backbones.from_torchvision:build",
}
