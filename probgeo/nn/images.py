"""Networks of images: convolutional encoders and decoders on flat rows."""

import abc
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probgeo.specs import check_numbers


def check_activation(activation: Any) -> None:
    """Raise if the activation is no class of modules."""
    if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise TypeError(f"activation: expected a class such as torch.nn.SiLU; got {activation!r}.")


@dataclass(frozen=True)
class _ImageNetwork(abc.ABC):
    """A network of images that stay flat rows: a decoder where it grows, its mirror image, an encoder, where not."""

    image: Sequence[int] = (28, 28)
    channels: Sequence[int] = (16, 32)
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        check_numbers(self)
        object.__setattr__(self, "image", tuple(self.image))
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels: expected at least one layer, all positive; got {self.channels}.")
        factor = 2 ** len(self.channels)
        height, width, *colours = self.image if len(self.image) in (2, 3) else (0, 0)
        if min(height, width, *colours) < 1 or height % factor or width % factor:
            raise ValueError(
                f"image: expected (height, width) or (height, width, channels), multiples of {factor}, as each of the "
                f"{len(self.channels)} layers halves them; got {self.image}. Give fewer channels, or pad the images."
            )
        check_activation(self.activation)

    def build(self, num_inputs: int, num_outputs: int) -> "OnRows":
        """The network, freshly initialised from torch's random state.

        Args:
            num_inputs: latent dimension of a decoder, numbers of an image for an encoder.
            num_outputs: numbers of an image for a decoder, or a multiple, for likelihoods of several parameters.

        Raises:
            ValueError: neither is that of the images of this spec.
        """
        name, number = ("num_outputs", num_outputs) if num_outputs >= num_inputs else ("num_inputs", num_inputs)
        size = math.prod(self.image)
        if number % size:
            raise ValueError(
                f"{name}: expected {size} = {'·'.join(map(str, self.image))}, the numbers of an image, or a multiple; "
                f"got {number}. Set image to the shape of the data."
            )
        height, width, *colours = self.image
        shape = (number // size, height, width, *(colours or [1]))
        channels, factor = (shape[0] * shape[3], *self.channels), 2 ** len(self.channels)
        small = (self.channels[-1], height // factor, width // factor)
        layers: list[nn.Module] = []
        if name == "num_outputs":
            layers += [nn.Linear(num_inputs, math.prod(small)), nn.Unflatten(1, small)]
            for more, fewer in itertools.pairwise(channels[::-1]):
                layers += [self.activation(), *self._doubled(more, fewer)]
            layers += [_FromPlanes(shape)]
        else:
            layers += [_ToPlanes(shape)]
            for fewer, more in itertools.pairwise(channels):
                layers += [*self._halved(fewer, more), self.activation()]
            layers += [nn.Flatten(), nn.Linear(math.prod(small), num_outputs)]
        return OnRows(nn.Sequential(*layers), num_outputs)

    @abc.abstractmethod
    def _halved(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        """Layers that halve height and width."""

    @abc.abstractmethod
    def _doubled(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        """Layers that double height and width."""


@dataclass(frozen=True)
class Convolutional(_ImageNetwork):
    """Spec of a network of images: convolutions of stride 2 as an encoder, transposed ones as a decoder.

    Args:
        image: (height, width) or (height, width, channels), as `Dataset.shape`; images stay flat rows of a tensor.
        channels: of the hidden layers, from the image inwards; each halves height and width.
        activation: class of the elementwise nonlinearity.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: no channels, or a height or width that cannot be halved that often.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.nn.Convolutional(image=(8, 8), channels=(4, 8))
        >>> encoder, decoder = spec.build(num_inputs=64, num_outputs=2), spec.build(num_inputs=2, num_outputs=64)
        >>> codes = encoder(torch.zeros(3, 64))
        >>> codes.shape, decoder(codes).shape
        (torch.Size([3, 2]), torch.Size([3, 64]))
    """

    def _halved(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(num_inputs, num_outputs, kernel_size=4, stride=2, padding=1)]

    def _doubled(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(num_inputs, num_outputs, kernel_size=4, stride=2, padding=1)]


@dataclass(frozen=True)
class ResizeConvolutional(_ImageNetwork):
    """Spec of a network of images: convolution, then average of 2 x 2 pixels; as a decoder pixels doubled, convolution.

    Without the chequered patterns that transposed convolutions may leave.

    Args:
        image: (height, width) or (height, width, channels), as `Dataset.shape`; images stay flat rows of a tensor.
        channels: of the hidden layers, from the image inwards; each halves height and width.
        activation: class of the elementwise nonlinearity.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: no channels, or a height or width that cannot be halved that often.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.nn.ResizeConvolutional(image=(8, 8, 3), channels=(4, 8))
        >>> model = pg.VAE(latent=2, encoder=spec, decoder=pg.Decoder(spec)).build(num_features=192, seed=0)
        >>> model.decode(torch.zeros(1, 2)).shape
        torch.Size([1, 192])

    References:
        Odena, Dumoulin & Olah (2016), Deconvolution and checkerboard artifacts.
    """

    def _halved(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1), nn.AvgPool2d(2)]

    def _doubled(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1)]


@dataclass(frozen=True)
class ConditionalConvolutional:
    """Spec of a network of [numbers; images], such as codes or labels with a condition of pixels and their mask.

    As an encoder: convolutions of stride 2 over all images as channels, then numbers and features side by side. As a
    decoder (outputs are images): the same convolutions of the condition, and transposed ones from the numbers back to
    an image, each reading the condition's features of its size too. Without images among the inputs it is the decoder
    of `Convolutional`.

    Args:
        image: (height, width) or (height, width, channels), as `Dataset.shape`; images stay flat rows of a tensor.
        channels: of the hidden layers, from the image inwards; each halves height and width.
        activation: class of the elementwise nonlinearity.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: no channels, or a height or width that cannot be halved that often.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.nn.ConditionalConvolutional(image=(8, 8), channels=(4, 8))
        >>> decoder = spec.build(num_inputs=2 + 64 + 64, num_outputs=64)  # of codes, conditions and their mask
        >>> decoder(torch.zeros(3, 130)).shape
        torch.Size([3, 64])

    References:
        Ronneberger, Fischer & Brox (2015), U-Net: convolutional networks for biomedical image segmentation.
    """

    image: Sequence[int] = (28, 28)
    channels: Sequence[int] = (16, 32)
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        checked = Convolutional(self.image, self.channels, self.activation)
        object.__setattr__(self, "image", checked.image)
        object.__setattr__(self, "channels", checked.channels)

    def build(self, num_inputs: int, num_outputs: int) -> "OnRows":
        """The network, freshly initialised from torch's random state.

        Args:
            num_inputs: numbers, fewer than an image has, and those of whole images behind them.
            num_outputs: those of whole images for a decoder; anything else for an encoder.

        Raises:
            ValueError: an encoder without images among its inputs.
        """
        size = math.prod(self.image)
        num_images, num_numbers = divmod(num_inputs, size)
        network = _ConditionalImages(self, num_images, num_numbers, num_outputs)
        return OnRows(network, num_outputs)


class _ConditionalImages(nn.Module):
    """The network that `ConditionalConvolutional` describes, on a list of rows."""

    def __init__(self, spec: ConditionalConvolutional, num_images: int, num_numbers: int, num_outputs: int) -> None:
        super().__init__()
        height, width, *colours = spec.image
        size, factor, planes = math.prod(spec.image), 2 ** len(spec.channels), (colours or [1])[0]
        if not num_images and num_outputs % size:
            raise ValueError(
                f"num_inputs: expected at least the {size} numbers of an image; got {num_numbers}. Set image to the "
                "shape of the data."
            )
        self.num_numbers, self.activation = num_numbers, spec.activation()
        self.to_planes = _ToPlanes((num_images, height, width, planes))
        widths = (num_images * planes, *spec.channels)
        pairs = list(itertools.pairwise(widths)) if num_images else []
        self.down = nn.ModuleList(nn.Conv2d(fewer, more, 4, stride=2, padding=1) for fewer, more in pairs)
        small = (spec.channels[-1], height // factor, width // factor)
        self.is_decoder = num_outputs % size == 0
        if self.is_decoder:
            outputs = num_outputs // size
            self.small = small
            self.start = nn.Linear(num_numbers, math.prod(small))
            levels = itertools.pairwise((*reversed(spec.channels), outputs * planes))
            read = 2 if num_images else 1  # what comes from below, and the condition's features
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(read * more, fewer, 4, stride=2, padding=1) for more, fewer in levels
            )
            self.from_planes = _FromPlanes((outputs, height, width, planes))
        else:
            self.stop = nn.Linear(num_numbers + math.prod(small), num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        numbers, features = x[:, : self.num_numbers], []
        if self.down:
            images = self.to_planes(x[:, self.num_numbers :])
            for layer in self.down:
                images = self.activation(layer(images))
                features.append(images)
        if not self.is_decoder:
            return self.stop(torch.cat([numbers, features[-1].flatten(1)], dim=1))
        images = self.start(numbers).unflatten(1, self.small)
        for layer in self.up:
            read = [self.activation(images), *([features.pop()] if features else [])]
            images = layer(torch.cat(read, dim=1))
        return self.from_planes(images)


class _ToPlanes(nn.Module):
    """Rows of numbers in the order (parameter, height, width, channel) -> (row, plane, height, width)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape).movedim(-1, 2).flatten(1, 2)


class _FromPlanes(nn.Module):
    """The inverse of `_ToPlanes`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.shape[0], self.shape[-1])).movedim(2, -1).flatten(1)


class OnRows(nn.Module):
    """A network of a list of rows, on rows in any arrangement: (*batch, in) -> (*batch, out)."""

    def __init__(self, network: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.network = network
        self.num_outputs = num_outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.num_outputs)
