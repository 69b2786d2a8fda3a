"""Actions (H, A): chunks that a policy carries out under what it observes."""

from __future__ import annotations

from pathlib import Path

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.forms.base import Form, Request, Sampled
from stillhouse.forms.views import Clips


class Actions(Form):
    """Chunks of actions, as numbers or, where the world can be drawn, as moving pictures."""

    name = "actions"
    shown, few = 12, 16
    policy = True

    def fits(self, model: Sampled) -> bool:
        return len(model.shape) == 2

    def sample(self, model: Sampled, request: Request) -> str:
        """Chunks under the observations of demonstrated rows: those that ``--labels`` number, or held-out
        ones."""
        from stillhouse.io.images import save_samples
        from stillhouse.io.media import ENDINGS, save_clips

        if model.cond_kind != "observation":
            return super().sample(model, request)
        world = required(request.world(), "The model does not name its world, whose observations it needs.")
        n = request.n if request.n is not None else len(request.labels) or self.few
        require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
        fits = world.cond_kind == model.cond_kind and tuple(world.shape) == tuple(model.shape)
        require(
            fits,
            f"The world '{world.name}' has no observations for a policy of chunks {tuple(model.shape)}; "
            "sample it from Python.",
        )
        labels = request.label_rows(n)
        labels = world.balanced_labels(n, "test") if labels is None else labels
        chunks = model.sample(
            n, world.condition(labels), steps=request.steps, guidance=request.guidance, seed=request.seed
        ).cpu()
        if Path(request.out).suffix in ENDINGS:
            view = world.display.view(chunks, labels)
            if not isinstance(view, Clips):
                raise StillhouseError(
                    f"Chunks of this world can't be drawn; write them as numbers, not as '{request.out}'."
                )
            path = save_clips(request.out, view.clips, columns=request.columns)
        else:
            path = save_samples(request.out, chunks, labels)
        return f"{path}: {n} chunks of {model.shape[0]} actions in {self.cost(model, request)} each"
