"""Probabilistic latent geometry: which distances, angles and volumes of a latent space survive retraining."""

from importlib.metadata import version

import lazy_loader

# The names and where each is defined stand in the stub beside this file, which type checkers read too. Nothing is
# imported before it is used: a geodesic needs no tables, a model no figures.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("probgeo")
