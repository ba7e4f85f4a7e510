"""Settings of a run that takes a tenth of a second: one digit on frames of 8 x 8 pixels."""


def small(**sections: dict) -> dict:
    """Return settings by section. `sections` add to them: small(model={"layers": 1})."""
    own = {
        "data": {"frame_size": 8, "digit_size": 5, "num_digits": 1, "past": 3, "future": 3},
        "model": {"hidden": 6},
        "run": {"batch_size": 4, "steps": 2},
    }
    return {name: own.get(name, {}) | sections.get(name, {}) for name in own | sections}
