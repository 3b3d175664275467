"""What a `SharedLatentVAE` is made of: views, the fusion of their encoders, and the alternation of their training."""

from probgeo.models.shared.fusion import Average, Mixture, ProductOfExperts
from probgeo.models.shared.views import Alternation, View

__all__ = ["Alternation", "Average", "Mixture", "ProductOfExperts", "View"]
