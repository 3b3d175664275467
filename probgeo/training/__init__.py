"""Training: options, the objective and its steps, retrainings that are trained at once, models on disk."""
