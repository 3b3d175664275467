"""Posteriors of a decoder's last layer: in closed form, by a regression, sampled."""
