"""Conditional models: any subset of the features, or covariates, are conditions."""
