"""Probabilistic latent geometry: which distances, angles and volumes of a latent space survive retraining."""
