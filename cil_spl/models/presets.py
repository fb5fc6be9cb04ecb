"""Layer lists by name, for ``model.preset``; ``model.layers`` overrides them.

Published networks stand here as their paper has them, or, where it says less, its authors' code: a batch norm after
each layer with weights but the last, which gives the outputs without neurons; strides in the place of pooling. Dropout,
where the code has it, is left out, and norms have torch's own constants. ``model.width`` multiplies the features.

    S2  Wu et al. 2021, Progressive tandem learning, https://arxiv.org/abs/2007.01204 (sections 5.1 and 6.3.1)
    S1  Wu et al. 2021, Tandem learning, https://arxiv.org/abs/1907.01167
    V   Simonyan and Zisserman 2015, VGG, https://arxiv.org/abs/1409.1556 (table 1)
    A   Krizhevsky et al. 2012, AlexNet
"""

from __future__ import annotations

from typing import Any

Block = dict[str, Any]
OUTPUTS: Block = {"linear": "classes", "bias": True, "neuron": False}


def _conv(features: int, stride: int = 1, kernel: int = 3, padding: int | None = None) -> Block:
    """A convolution and its batch norm, which has the bias; a padding of half the kernel unless said otherwise."""
    border = kernel // 2 if padding is None else padding
    return {"conv": features, "kernel": kernel, "stride": stride, "padding": border, "norm": "batch"}


def _linear(*features: int) -> list[Block]:
    return [{"linear": n, "norm": "batch"} for n in features]


def _vgg(*blocks: list[int], first_strides: bool) -> list[Block]:
    """VGG's blocks of 3 x 3 convolutions, and its two hidden layers of 4,096.

    Args:
        blocks: the features of each block's convolutions, of which the last has stride 2, for V's pooling after it.
        first_strides: whether the last one of the first block has it, too.
    """
    found = []
    for k, block in enumerate(blocks):
        last = 2 if k or first_strides else 1
        found += [*map(_conv, block[:-1]), _conv(block[-1], last)]
    return [*found, *_linear(4096, 4096), OUTPUTS]


PRESETS: dict[str, list[Block]] = {
    # The four layers of the vendor's N-MNIST walk-through.
    "quickstart": [
        {"conv": 8, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 16, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 16, "kernel": 3, "stride": 2, "padding": 1},
        {"linear": "classes"},
    ],
    # Five convolutions and one linear layer, the form of the CIL-SPL paper, sized to fit nine cores.
    "scnn6": [
        {"conv": 16, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 32, "kernel": 3, "padding": 1},
        {"conv": 32, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 32, "kernel": 3, "padding": 1},
        {"conv": 32, "kernel": 3, "padding": 1, "pool": 2},
        {"linear": "classes"},
    ],
    # S2: 28x28-c16s1-c32s2-c32s1-c64s2-800-10, kernels 3 x 3. Padding 1 is our choice; S2 does not say.
    "ptl_mnist": [_conv(16), _conv(32, 2), _conv(32), _conv(64, 2), *_linear(800), OUTPUTS],
    # S2's code: AlexNet with 3 x 3 kernels, 32 → 32 → 16 → 8 → 8 → 4 pixels, one hidden layer of 2,048.
    "alexnet_cifar": [_conv(96), _conv(256, 2), _conv(384, 2), _conv(384), _conv(256, 2), *_linear(2048), OUTPUTS],
    # S2's code: strides 1, 2, 1, 2, 1, 2, 1, 2, 32 → 2 pixels; two hidden layers of 4,096.
    "vgg11_cifar": _vgg([64], [128], [256, 256], [512, 512], [512, 512], first_strides=False),
    # S2 names VGG-13 and VGG-16 (figure 4) without sizes: features from V, strides placed as in VGG-11 are our choice.
    "vgg13_cifar": _vgg([64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2, first_strides=False),
    "vgg16_cifar": _vgg([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3, first_strides=False),
    # S1's code, 32 → 32 → 16 → 8 → 8 → 8 pixels.
    "tandem_cifar": [_conv(128), _conv(256, 2), _conv(512, 2), _conv(1024), _conv(512), *_linear(1024), OUTPUTS],
    # S2: 784-128-64-32-64-128-784. The outputs are as many as task=reconstruction asks for.
    "autoencoder": [*_linear(128, 64, 32, 64, 128), OUTPUTS],
    # S2 names AlexNet and VGG-16 for ImageNet without sizes. Kernels and features are A's in one column; for its three
    # poolings the second, third and last convolution have stride 2, as in S2's AlexNet for CIFAR-10; our choice.
    # 224 → 55 → 28 → 14 → 14 → 7 pixels.
    "alexnet_imagenet": [
        _conv(96, 4, kernel=11, padding=2),
        _conv(256, 2, kernel=5),
        _conv(384, 2),
        _conv(384),
        _conv(256, 2),
        *_linear(4096, 4096),
        OUTPUTS,
    ],
    # V's configuration D; stride 2 in the place of all five poolings is our choice, 224 → 7 pixels.
    "vgg16_imagenet": _vgg([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3, first_strides=True),
}

# What `cilspl ls` says of them.
ABOUT: dict[str, str] = {
    "quickstart": "Four layers that fit the chip, the vendor's walk-through of N-MNIST.",
    "scnn6": "Six layers that fit the chip, the form of the CIL-SPL paper.",
    "ptl_mnist": "The MNIST network of progressive tandem learning; batch norms, no chip.",
    "alexnet_cifar": "AlexNet for images of 32 x 32, as progressive tandem learning has it.",
    "vgg11_cifar": "VGG-11 for images of 32 x 32, as progressive tandem learning has it.",
    "vgg13_cifar": "VGG-13 for images of 32 x 32, strides placed as in vgg11_cifar.",
    "vgg16_cifar": "VGG-16 for images of 32 x 32, strides placed as in vgg11_cifar.",
    "tandem_cifar": "The CIFAR-10 network of tandem learning.",
    "autoencoder": "128-64-32-64-128 and the outputs, for task=reconstruction.",
    "alexnet_imagenet": "AlexNet for images of 224 x 224, strides in the place of pooling.",
    "vgg16_imagenet": "VGG-16 for images of 224 x 224, strides in the place of pooling.",
}
