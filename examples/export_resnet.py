"""Exports ResNet-18 or ResNet-50 from PyTorch to ONNX with a dynamic batch, and compares the two.

    python examples/export_resnet.py resnet18 [--pretrained | --weights FILE.pth] [--exporter dynamo|legacy]

Needs torch, and onnxscript for the default exporter (pip install torch onnxscript). The network comes from torchvision
where it is installed, and from the same definition below where it is not. Without --pretrained (which needs
torchvision) or --weights (a state dict with torchvision's names) the weights are RANDOM: right for trying out the
way from PyTorch to a server and for measuring speed, worthless as a classifier.
docs/guides/pytorch-export.md says what happens here and why.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

IMAGE = (3, 224, 224)
OPSET = 18


class Basic(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Two 3x3 convolutions around which the input is added: the block of ResNet-18."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1x1, 3x3 (which has the stride) and 1x1 convolutions: the block of ResNet-50."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


class ResNet(nn.Module):  # type: ignore[misc]
    """The network of He et al., 2015, with the parameter names of torchvision, so that its weights fit."""

    def __init__(self, block: type[Basic] | type[Bottleneck], blocks: Sequence[int], classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for stage, count in enumerate(blocks):
            width, layers = 64 * 2**stage, []
            for index in range(count):
                layers.append(block(inputs, width, stride=2 if stage and not index else 1))
                inputs = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # PyTorch's default would fade the image out on its way to the logits
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def network(name: str, *, pretrained: bool = False, weights: Path | None = None) -> nn.Module:
    """ResNet-18 or ResNet-50, ready for inference (``eval``)."""
    if importlib.util.find_spec("torchvision"):
        from torchvision.models import get_model

        module = get_model(name, weights="DEFAULT" if pretrained else None)
    elif pretrained:
        raise SystemExit("error: --pretrained needs torchvision (pip install torchvision); or give --weights FILE.pth")
    else:
        torch.manual_seed(0)
        module = ResNet(Basic, (2, 2, 2, 2)) if name == "resnet18" else ResNet(Bottleneck, (3, 4, 6, 3))
    if weights:
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module.eval()


def export(module: nn.Module, path: Path, exporter: str = "dynamo") -> None:
    """Write the module as ONNX: image FP32 [batch, 3, 224, 224] -> logits FP32 [batch, 1000]."""
    example = torch.zeros(2, *IMAGE)  # two rows: torch.export treats the sizes 0 and 1 as special
    names = {"input_names": ["image"], "output_names": ["logits"], "opset_version": OPSET}
    if exporter == "dynamo":
        batch = ({0: torch.export.Dim("batch")},)
        # One file, which works up to 2 GB; past that leave external_data out and keep both files together.
        one_file = {"external_data": False, "verbose": False}
        torch.onnx.export(module, (example,), path, dynamo=True, dynamic_shapes=batch, **one_file, **names)
    else:
        batch_axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(module, (example,), path, dynamo=False, dynamic_axes=batch_axes, **names)


def compare(module: nn.Module, path: Path, batch: int) -> tuple[float, float]:
    """Largest difference between ONNX Runtime and PyTorch on random images, and the largest value PyTorch gives."""
    import onnxruntime

    images = np.random.default_rng(batch).random((batch, *IMAGE), np.float32)
    with torch.inference_mode():
        want = module(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"image": images})
    return float(np.abs(got - want).max()), float(np.abs(want).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Export a ResNet from PyTorch to ONNX with a dynamic batch.")
    parser.add_argument("name", choices=["resnet18", "resnet50"])
    parser.add_argument("--output", type=Path, help="the ONNX file (default: NAME.onnx)")
    parser.add_argument("--pretrained", action="store_true", help="torchvision's weights, downloaded by it")
    parser.add_argument("--weights", type=Path, help="a state dict with torchvision's names")
    parser.add_argument("--exporter", choices=["dynamo", "legacy"], default="dynamo")
    options = parser.parse_args(arguments)
    path = options.output or Path(f"{options.name}.onnx")
    module = network(options.name, pretrained=options.pretrained, weights=options.weights)
    export(module, path, options.exporter)
    trained = "trained" if options.pretrained or options.weights else "RANDOM"
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {trained} weights")
    if importlib.util.find_spec("onnxruntime"):
        for batch in (1, 2, 8):
            error, largest = compare(module, path, batch)
            print(f"batch {batch}: differs from PyTorch by at most {error:.1e} (largest logit {largest:.2f})")
    return 0


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What the block adds to its result: the input, or where the shape changes, a 1x1 convolution of it."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


if __name__ == "__main__":
    sys.exit(main())
