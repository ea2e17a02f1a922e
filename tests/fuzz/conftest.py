"""Profiles of hypothesis: "suite" finds the same examples everywhere, "long" new ones every time."""

from hypothesis import HealthCheck, Phase, settings

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}

settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    max_examples=100,
    print_blob=False,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    **COMMON,
)
settings.register_profile("long", max_examples=5000, print_blob=True, **COMMON)
settings.load_profile("suite")  # --hypothesis-profile long, which `make fuzz` gives, replaces it
