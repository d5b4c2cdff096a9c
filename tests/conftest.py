"""Settings of every test."""

from __future__ import annotations

import hypothesis

# A shared two-core machine is at times slow: an example may take as long as it takes.
hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("default")
