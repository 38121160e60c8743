"""Put a published RGB ResNet-50 into torchvision's: python torchvision_network.py rgb.safetensors

It needs torch, torchvision and safetensors alone.
"""

import sys

import torch
from safetensors.torch import load_file
from torchvision.models import resnet50


def represent(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Representations, float32 [B, 2048], of RGB images, uint8 [B, 3, H, W]."""
    with torch.inference_mode():
        return network.eval()(images / 127.5 - 1)  # not the mean and deviation of torchvision's own weights


network = resnet50()
network.fc = torch.nn.Identity()  # the classifier is yours
network.load_state_dict(load_file(sys.argv[1]))
images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
print("representations:", tuple(represent(network, images).shape))
