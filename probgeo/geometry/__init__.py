"""Geometry of a latent space, which knows nothing of models: immersions, metrics, geodesics, calculus."""
