"""Probabilistic latent geometry: which distances, angles and volumes of a latent space survive retraining.

One word stands for one thing, in names as in sentences:

Words:
    codes: points z of the latent space that an encoder gives the data. `encodings` is only what a `paths.Graph` is
        built over, and an `Encoding` is mean and standard deviation together.
    feature: one number of a row of x. An observation is one number that a decoder puts out.
    member: one network of an ensemble.
    draw: any one fixed function that a decoder may be, a member or a sample of its weights.
    sample: a random x, z or weight, and never an average.
    mean: E[x | z], or that of whatever else is averaged.
    retraining: one training of a spec, by its seed. A spec describes a model, a model has weights.
    Evaluation: what an energy says of paths, its value and the durations of their segments.
    Measure: a distance that a study gives a name, with its angles and volumes.
    num_…: how many there are of something: `num_pairs`, `num_segments`.
    Warmup: how β, the weight of the divergence, rises over the epochs.
    schedule: how the learning rate changes over the epochs.
    precision, variance, std: one is never written where another is meant.
    colour, centre, neighbour: names are British as sentences are.
"""

from importlib.metadata import version

import lazy_loader

# The names and where each is defined stand in the stub beside this file, which type checkers read too. Nothing is
# imported before it is used: a geodesic needs no tables, a model no figures.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("probgeo")
