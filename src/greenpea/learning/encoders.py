"""Encoders: array → embedding. Built of `nn.Module`s only, the residual sum included, so that hooks see all.

Arrays have their channels first, then one to three dimensions: spectra, images, cubes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from greenpea.errors import GreenpeaError, did_you_mean

LONGEST_EMBEDDING = 128
HUB = "hf-hub:"

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
AVERAGES = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Sum(nn.Module):
    """The residual sum, as a module of its own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class ResidualBlock(nn.Module):
    """Two convolutions, 3 wide, beside a shortcut (He+2016); the shortcut averages where the block halves."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dimensions: int = 2) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[dimensions], NORMS[dimensions]
        self.body = nn.Sequential(
            convolution(channels_in, channels_out, 3, stride, 1, bias=False),
            norm(channels_out),
            nn.ReLU(inplace=True),
            convolution(channels_out, channels_out, 3, 1, 1, bias=False),
            norm(channels_out),
        )
        # An identity block begins as the identity, which lets short training runs start well (Goyal+2017).
        nn.init.zeros_(self.body[-1].weight)
        shortcut: list[nn.Module] = [AVERAGES[dimensions](stride, ceil_mode=True)] if stride > 1 else []
        if channels_in != channels_out:
            shortcut += [convolution(channels_in, channels_out, 1, bias=False), norm(channels_out)]
        self.shortcut = nn.Sequential(*shortcut)
        self.sum = Sum()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.sum(self.body(x), self.shortcut(x)))


class ResidualEncoder(nn.Module):
    """A compact residual network for small images, spectra or cubes on ordinary processors.

    Stages of ``width`` × (1, 2, 4, 8) channels. The stem halves arrays longer than 40 pixels, so that a
    64-pixel image costs what a 32-pixel one does; spectra longer than 256 are thinned by four, above 1,024 by eight.
    Input: [batch, channel, …], images in [0, 1]; output: the embedding, [batch, 8 × width].
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 64,
        width: int = 24,
        blocks: tuple[int, ...] = (1, 1, 1, 1),
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(len(blocks))]
        self.embedding_size = widths[-1]
        convolution, norm = CONVOLUTIONS[dimensions], NORMS[dimensions]
        stride = stem_stride(size, dimensions)
        wide = max(3, 2 * stride - 1)  # every pixel is looked at
        layers: list[nn.Module] = [
            norm(channels, affine=False),  # learns the arrays' own mean and scale
            convolution(channels, width, wide, stride, wide // 2, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        ]
        before = width
        for stage, (after, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                layers.append(ResidualBlock(before, after, 2 if stage and not index else 1, dimensions))
                before = after
        self.layers = nn.Sequential(*layers)
        self.pool = POOLS[dimensions](1)
        self.flatten = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        return self.flatten(self.pool(self.layers(images)))


def stem_stride(size: int, dimensions: int) -> int:
    """Return by how much the first convolution thins arrays of this length."""
    if dimensions == 1 and size > 256:
        return 8 if size > 1024 else 4
    return 2 if size > 40 else 1


class TimmEncoder(nn.Module):
    """One of timm's networks without its classifier, or one that somebody published for timm (``hf-hub:``).

    Needs the extra ``timm``.
    """

    def __init__(self, name: str, channels: int, size: int, pretrained: bool) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(channels, affine=False)  # the images' own mean and scale, whatever they are
        self.network = _made(name, channels, pretrained)
        self.embedding_size = self._length(name, channels, size)

    @torch.no_grad()
    def _length(self, name: str, channels: int, size: int) -> int:
        """Return how long the embedding is, by trying: timm's models say it in different ways."""
        try:
            return int(self.network.eval()(torch.zeros(1, channels, size, size)).shape[-1])
        except (AssertionError, RuntimeError) as error:
            raise GreenpeaError(
                f"timm's {name!r} does not take images of {size} × {size} pixels ({error}): set images.size to what "
                f"it was made for, or choose a convolutional network"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.scale(images))


def _made(name: str, channels: int, pretrained: bool) -> nn.Module:
    """Return timm's network of this name, or the one published at ``hf-hub:OWNER/NAME[@REVISION]``, or in a folder."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise GreenpeaError(f"the encoder {name!r} needs timm: pip install 'greenpea[timm]' ({error})") from error
    if not name.startswith(HUB):
        if not timm.is_model(name):
            raise GreenpeaError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
        return timm.create_model(name, pretrained=pretrained, in_chans=channels, num_classes=0)
    folder = Path(name.removeprefix(HUB)).expanduser()
    place = f"local-dir:{folder.resolve()}" if folder.is_dir() else name
    try:
        return timm.create_model(place, pretrained=pretrained, in_chans=channels, num_classes=0)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:  # its errors of the net are OSErrors
        words = str(error).strip().partition("\n")[0]
        raise GreenpeaError(
            f"the encoder {name!r} cannot be had ({words}): write hf-hub:OWNER/NAME as on the hub and look at the "
            f"connection, or download the repository, which holds config.json and model.safetensors, and write "
            f"hf-hub:FOLDER"
        ) from error


class Encoder(nn.Module):
    """Any of the encoders above, its embedding at most 128 long and of zero mean and unit variance.

    A longer one is projected, by weights that are learned with the rest: the doubt about a head grows with the
    square of what it looks at. The standard scale comes from batch statistics.
    """

    def __init__(self, network: ResidualEncoder | TimmEncoder) -> None:
        super().__init__()
        self.built: dict[str, str | int] = {}  # what `build` was asked for, to build it again
        self.network = network
        self.embedding_size = min(LONGEST_EMBEDDING, network.embedding_size)
        longer = network.embedding_size > LONGEST_EMBEDDING
        self.projection = nn.Linear(network.embedding_size, LONGEST_EMBEDDING, bias=False) if longer else nn.Identity()
        self.standard = nn.BatchNorm1d(self.embedding_size, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.standard(self.projection(self.network(images)).float())


def build(name: str, channels: int, size: int, width: int, pretrained: bool = False, dimensions: int = 2) -> Encoder:
    """Return the encoder ``residual``, ``timm:NAME`` or ``hf-hub:OWNER/NAME`` for arrays [batch, channel, size, …].

    ``pretrained``: with its published weights, and not random ones. timm's take images, which have two ``dimensions``.
    Raises GreenpeaError for others.
    """
    encoder = Encoder(_network(name, channels, size, width, pretrained, dimensions))
    encoder.built = {"name": name, "channels": channels, "size": size, "width": width, "dimensions": dimensions}
    return encoder


def _network(
    name: str, channels: int, size: int, width: int, pretrained: bool, dimensions: int
) -> ResidualEncoder | TimmEncoder:
    if name == "residual":
        if dimensions not in CONVOLUTIONS:
            raise GreenpeaError(f"arrays with {dimensions} dimensions beside the channels: the encoder takes 1, 2 or 3")
        return ResidualEncoder(channels, size, width, dimensions=dimensions)
    if name.startswith(("timm:", HUB)):
        if dimensions != 2:
            raise GreenpeaError(f"{name} takes images, not arrays of {dimensions} dimensions: use 'residual'")
        return TimmEncoder(name.removeprefix("timm:"), channels, size, pretrained)
    raise GreenpeaError(
        f"no encoder {name!r}: use 'residual', or 'timm:NAME' such as 'timm:resnet18', or 'hf-hub:OWNER/NAME'"
    )
