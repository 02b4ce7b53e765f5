"""Networks of our own, so that the standard ones trace where torchvision is not installed.

Layer by layer the graphs of torchvision's (v1.5 bottlenecks: the stride is in the 3 x 3 convolution), so that their
traces are the same; weights are random and of no interest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block: convolutions, each with batch norm, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        for i, shape in enumerate(shapes, 1):
            self.add_module(f"conv{i}", _conv(*shape))
            self.add_module(f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.depth = len(shapes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"conv{i}")(out)
            out = getattr(self, f"bn{i}")(out)
            if i < self.depth:
                out = self.relu(out)
        out += x if self.downsample is None else self.downsample(x)
        return torch.as_tensor(self.relu(out))


class ResNet(nn.Module):
    """Residual network of four stages.

    Parameters
    ----------
    depths : sequence of int
        Blocks of each stage.
    bottleneck : bool
        Blocks of 1 x 1, 3 x 3, 1 x 1 convolutions, else of two 3 x 3.
    classes : int
    """

    def __init__(self, depths: tuple[int, ...], bottleneck: bool, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, depth in enumerate(depths, 1):
            width = 32 * 2**stage
            blocks = []
            for i in range(depth):
                blocks.append(Block(channels, width, 2 if stage > 1 and i == 0 else 1, bottleneck))
                channels = width * 4 if bottleneck else width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        # One statement each: what is still named is still in memory.
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return torch.as_tensor(self.fc(torch.flatten(self.avgpool(x), 1)))


def resnet18() -> ResNet:
    """Return ResNet-18: 11.7 M parameters, 1.8 G multiply-adds an image of 224 x 224."""
    return ResNet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> ResNet:
    """Return ResNet-50: 25.6 M parameters, 4.1 G multiply-adds an image of 224 x 224."""
    return ResNet((3, 4, 6, 3), bottleneck=True)


#: Models by the name that torchvision gives them.
MODELS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet18, "resnet50": resnet50}
