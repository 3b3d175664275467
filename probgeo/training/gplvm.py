"""Training of a Gaussian process latent variable model: stochastic variational inference with a code for every row."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probgeo.models.gp.gplvm import GPLVM, FittedGPLVM
from probgeo.models.phase import Phase
from probgeo.rows import StoredRows, in_memory, sent
from probgeo.training.budget import SHARE, memory_of
from probgeo.training.objective import random_noise, random_rows
from probgeo.training.optimisers import gradients_of

BYTES = 48  # of memory for each number of the rows: these, their principal components and keys, in double precision


def all_rows(x: Tensor | StoredRows) -> Float[Tensor, "row observation"]:
    """All rows in memory, where a model with a code of its own for each is trained.

    Raises:
        ValueError: rows of a file that do not fit in half of the memory, with what is made of them.
    """
    if isinstance(x, StoredRows) and (asked := BYTES * len(x) * x.shape[1]) > SHARE * memory_of(x.device):
        raise ValueError(
            f"x: a GPLVM has a code of its own for every row, and reads all {len(x)} at once: about {asked / 1e9:.1f} "
            f"GB, more than half of the {memory_of(x.device) / 1e9:.1f} GB of memory here. Give it fewer rows, or "
            "train VAE(decoder=GPDecoder()), which reads rows block by block."
        )
    return in_memory(x)


class SingleGPLVM:
    """One retraining, on all rows of x: what `Stack` is for several retrainings of an autoencoder.

    The objective, per row, is E log p(x_n | z_n, u) - KL(q(z_n) ‖ p) - KL(q(u) ‖ p) / N, with one sample of z_n.

    Args:
        spec: what to train.
        train: rows, each of which gets a code of its own; so none is held out.
        seed: of the retraining.
        batch_size: rows of a minibatch.
    """

    held_out = None

    def __init__(self, spec: GPLVM, train: Float[Tensor, "row observation"], seed: int, batch_size: int) -> None:
        self.spec, self.train, self.seeds = spec, train, (seed,)
        self.model: FittedGPLVM = spec.build(train.shape[1], seed).to(train)
        self.phases = self.model.phases
        self.batch_size = min(batch_size, len(train))

    def member(self, index: int) -> FittedGPLVM:
        """The model."""
        return self.model

    def state(self) -> dict[str, Tensor]:
        """All weights, codes and buffers by name."""
        return self.model.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Weights, codes and buffers that `state` gave."""
        self.model.load_state_dict(state)

    def start(self, phase: Phase, going_on: Sequence[bool]) -> Float[Tensor, " retraining"]:
        """What the phase does before its first epoch; seconds that it took."""
        began = time.monotonic()
        if phase.start and going_on[0]:
            phase.start(self.model, self.train, self.seeds[0])
        return torch.tensor([time.monotonic() - began], dtype=torch.float64)

    def trained(self, phase: Phase) -> dict[str, nn.Parameter]:
        """Parameters that the phase moves, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if phase.trains(name)}

    @staticmethod
    def each(value: Tensor) -> Tensor:
        """A parameter or its gradient as (retraining, *shape): in place, one retraining."""
        return value[None]

    def minibatches(self, phase: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and noise of an epoch.

        Raises:
            ArithmeticError: after the last, if the objective is not finite any more.
        """
        steps, shapes = len(self.train) // self.batch_size, {"z": torch.Size([self.batch_size, self.spec.latent])}
        order = sent(
            random_rows(self.seeds, steps, self.batch_size, len(self.train), "order", epoch)[0], self.train.device
        )
        noise = random_noise(self.seeds, steps, shapes, "noise", epoch)["z"][0]
        noise = sent(noise, self.train.device, self.train.dtype)
        yield from zip(order, noise, strict=True)
        with torch.no_grad():
            terms = self._terms(order[0], noise[0])  # the last step may have spoilt it
        if not terms.isfinite().all():
            raise ArithmeticError("not finite")

    def backward(self, parameters: Mapping[str, nn.Parameter]) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
        """A function that gives TERMS (term, retraining) of a minibatch, and sets the gradients of the parameters.

        It raises an ArithmeticError where the objective is not finite, or a kernel matrix not positive definite.
        """
        moved = list(parameters.values())

        def step(minibatch: tuple[Tensor, Tensor]) -> Float[Tensor, "term retraining"]:
            terms = self._terms(*minibatch)
            for parameter, gradient in zip(moved, gradients_of(terms[0], moved), strict=True):
                parameter.grad = gradient
            return terms.detach()[:, None]

        return step

    def validation(self, phase: int) -> None:
        """No row is held out."""

    def _terms(self, rows: Int[Tensor, " row"], noise: Float[Tensor, "row latent"]) -> Float[Tensor, " term"]:
        """Loss, log-likelihood and KL divergence of a minibatch, per row."""
        model = self.model
        log_likelihoods, kls = model.terms(self.train[rows], model.code_mean[rows], model.code_log_std[rows], noise)
        log_likelihood = log_likelihoods.mean()
        kl = kls.mean() + model.process.kl() / len(self.train)
        # Elsewhere the CPU would wait at every step for what the end of the epoch tells.
        if kl.device.type == "cpu" and not (log_likelihood.isfinite() and kl.isfinite()):
            raise ArithmeticError("not finite")
        return torch.stack([kl - log_likelihood, log_likelihood, kl])
