"""Points (D,), and whatever else is only numbers: .npy, and dots on a page."""

from __future__ import annotations

from stillhouse.forms.base import Form, Sampled


class Points(Form):
    """Plain numbers; the form of a model that no other fits."""

    name = "points"

    def fits(self, model: Sampled) -> bool:
        return True
