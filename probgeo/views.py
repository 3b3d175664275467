"""What a `SharedLatentVAE` is made of: views, the fusion of their encoders, and the alternation of their training."""

from probgeo.models.fusion import Average, Mixture, ProductOfExperts
from probgeo.models.views import Alternation, View

__all__ = ["Alternation", "Average", "Mixture", "ProductOfExperts", "View"]
