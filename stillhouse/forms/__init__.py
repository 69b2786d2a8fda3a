"""Forms: what a sample is. One file a form defines how its samples are requested, drawn, shown and saved.

:func:`of` finds the form of a model. Nothing here imports torch before it is used, so that
``stillhouse sample --help`` answers at once.
"""

from __future__ import annotations

from stillhouse.forms.actions import Actions
from stillhouse.forms.audio import Audio
from stillhouse.forms.base import Form, Request, Sampled, Setting
from stillhouse.forms.image import Image
from stillhouse.forms.photograph import Photograph
from stillhouse.forms.points import Points
from stillhouse.forms.scene import Scene
from stillhouse.forms.text import Text
from stillhouse.forms.video import Video
from stillhouse.forms.views import Display, View

# the first that fits is a model's form: what a network is conditioned on tells more than a shape
FORMS: tuple[Form, ...] = (
    Text(),
    Scene(),
    Photograph(),
    Video(),
    Image(),
    Actions(),
    Audio(),
    Points(),
)


def of(model: Sampled) -> Form:
    """The form of a model's samples; :class:`Points`, plain numbers, where no other fits."""
    return next(form for form in FORMS if form.fits(model))


__all__ = [
    "FORMS",
    "Display",
    "Form",
    "Photograph",
    "Request",
    "Sampled",
    "Setting",
    "Text",
    "Video",
    "View",
    "of",
]
