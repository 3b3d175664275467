"""The models: the only Pyro models of the library, and the only use of GPyTorch (`gp`)."""
