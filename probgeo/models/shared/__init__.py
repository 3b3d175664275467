"""Models of several views that share one latent space."""
