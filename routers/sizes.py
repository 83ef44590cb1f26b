"""How many parameters a model has, where its name says so: `llama-3.1-8b`, `mixtral-8x7b`, `smollm2-135m`."""

import re

_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")


def parameters_b(model: str) -> float | None:
    """Billions of parameters in all; None where the name does not say."""
    found = _SIZE.search(model.lower())
    if found is None:
        return None
    unit = 1.0 if found[3] == "b" else 1e-3
    return float(f"{int(found[1] or 1) * float(found[2]) * unit:.6g}")
