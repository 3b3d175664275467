"""One thread per process: the tests run in several, and give the same numbers on every machine."""

import torch

torch.set_num_threads(1)
