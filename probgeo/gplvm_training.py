"""Training of Gaussian process latent variable models: stochastic variational inference with a code for every row."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from probgeo.models.gplvm import GPLVM, FittedGPLVM
from probgeo.objectives import random_noise, random_rows
from probgeo.svi import Report, Training, learning_rate, num_epochs

HISTORY = ("loss", "log_likelihood", "kl", "gradient_norm")


class GPLVMRetrainings:
    """Retrainings of one spec, one per seed, trained one after the other on all rows of x.

    The objective, per row, is E log p(x_n | z_n, u) - KL(q(z_n) ‖ p) - KL(q(u) ‖ p) / N, with one sample of z_n.
    """

    def __init__(self, spec: GPLVM, x: Float[Tensor, "row observation"], seeds: list[int], training: Training) -> None:
        self.spec, self.x, self.seeds, self.training = spec, x, seeds, training
        self.batch_size = min(training.batch_size, len(x))

    def run(self, bar: tqdm, path: Path | None, checkpoint_seconds: float, report: Report | None = None) -> None:
        """All epochs of all retrainings; one that is interrupted starts anew, so there are no checkpoints."""
        self._results = [self._trained(seed, bar, report) for seed in self.seeds]

    def results(self) -> Iterator[tuple[int, FittedGPLVM, dict[str, Any], None]]:
        """(seed, model, what to say of it, no other weights) per retraining."""
        yield from self._results

    def _trained(self, seed: int, bar: tqdm, report: Report | None) -> tuple[int, FittedGPLVM, dict[str, Any], None]:
        began, training = time.monotonic(), self.training
        model = self.spec.build(self.x.shape[1], seed).to(self.x)
        (phase,) = model.phases
        assert phase.start is not None
        phase.start(model, self.x, seed)
        self.trained = [parameter for name, parameter in model.named_parameters() if phase.trains(name)]
        optimizer: Any = training.optimizer
        rate = learning_rate(phase, training, 0)
        self.optimizer = optimizer(self.trained, lr=rate, **(training.optimizer_options or {}))
        history: list[Tensor] = []
        diverged = ""
        for epoch in range(num_epochs(phase, training)):
            good = copy.deepcopy(model.state_dict())
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = learning_rate(phase, training, epoch)
            try:
                history.append(self._epoch(model, seed, epoch))
            except ArithmeticError as error:
                model.load_state_dict(good)
                diverged = f"seed {seed} at epoch {epoch} of phase {phase.name!r} ({error})"
                break
            if report:
                report(seed, epoch, dict(zip(HISTORY, history[-1].tolist(), strict=True)))
            bar.update()
        values = torch.stack(history).double().cpu().numpy() if history else np.zeros((0, len(HISTORY)))
        model.history = xr.Dataset(
            {name: ("epoch", values[:, term]) for term, name in enumerate(HISTORY)},
            coords={"epoch": range(len(values)), "phase": ("epoch", np.array([phase.name] * len(values), dtype=str))},
            attrs={"seed": seed, "diverged": diverged},
        )
        seconds = {"seconds": time.monotonic() - began}
        return seed, model.eval(), {"seed": seed, "diverged": diverged, **seconds}, None

    def _epoch(self, model: FittedGPLVM, seed: int, epoch: int) -> Float[Tensor, " term"]:
        """One pass over the data; mean of the terms, per row.

        Raises:
            ArithmeticError: the objective is not finite, or a kernel matrix is not positive definite.
        """
        num_rows, steps = len(self.x), len(self.x) // self.batch_size
        order = random_rows([seed], steps, self.batch_size, num_rows, "order", epoch)[0].to(self.x.device)
        shape = {"z": torch.Size([self.batch_size, self.spec.latent])}
        noise = random_noise([seed], steps, shape, "noise", epoch)["z"][0].to(self.x)
        max_norm = self.training.max_gradient_norm or torch.inf
        total = torch.zeros(len(HISTORY), dtype=torch.float64, device=self.x.device)
        for rows, at in zip(order, noise, strict=True):
            self.optimizer.zero_grad()
            terms = self._terms(model, rows, at)
            terms[0].backward()
            norm = nn.utils.clip_grad_norm_(self.trained, max_norm)
            self.optimizer.step()
            total += torch.stack([*(term.detach() for term in terms), norm.double()])
        with torch.no_grad():
            self._terms(model, order[0], noise[0])  # the last step may have spoilt it
        return total / steps

    def _terms(
        self, model: FittedGPLVM, rows: Int[Tensor, " row"], noise: Float[Tensor, "row latent"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, log-likelihood and KL divergence of a minibatch, per row."""
        mean, log_std = model.code_mean[rows], model.code_log_std[rows]
        log_likelihoods, kls = model.terms(self.x[rows], mean, log_std, noise)
        log_likelihood = log_likelihoods.mean()
        kl = kls.mean() + model.process.kl() / len(self.x)
        if not (log_likelihood.isfinite() and kl.isfinite()):
            raise ArithmeticError("not finite")
        return kl - log_likelihood, log_likelihood, kl
