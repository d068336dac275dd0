"""Examples are drawn the same way in every run; FOVEATE_HYPOTHESIS=deep looks for new ones, a thousand of each."""

import os

from hypothesis import HealthCheck, settings

QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
settings.register_profile(
    "strict", derandomize=True, database=None, deadline=None, max_examples=5, suppress_health_check=QUIET
)
settings.register_profile("deep", database=None, deadline=None, max_examples=1000, suppress_health_check=QUIET)
settings.load_profile(os.environ.get("FOVEATE_HYPOTHESIS", "strict"))
