"""The test run uses one thread per worker and no hub; set before torch and transformers are imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of one thread beat one of two, also in subprocesses
os.environ.setdefault("HF_HUB_OFFLINE", "1")
