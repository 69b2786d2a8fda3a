"""The U-Net of the shipped pipeline, and its training together with the text encoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.draws import Draws
from stillhouse.io.weights import atomic_write
from stillhouse.metrics.reader import load_reader, prompt_fidelity
from stillhouse.worlds.shapes.world import Shapes
from tools.shapes_pipeline.codec import encoded, zero
from tools.shapes_pipeline.text import WIDTH, token_ids

STEPS, BATCH, RATE = 9000, 16, 1.2e-3
TEXT_RATE = 0.5  # of the U-Net's rate, for the text encoder
WARM_UP, FALL = 100, 1000  # the first and the last steps, in which the rate rises and falls
AVERAGE = 0.999
PICTURES = 16_000  # encoded once
NO_CAPTION = 0.1  # share of the rows that learn without their caption, for guidance
SAVE_EVERY, LOOK_EVERY = 100, 500  # steps


def new_unet() -> Any:
    """The untrained U-Net: Stable Diffusion's own blocks, attention at every level, and the prompt pooled
    into the time as well; every branch starts as nothing."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 72),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
        # attention alone learns very slowly which word is whose
        addition_embed_type="text",
        addition_embed_type_num_heads=16,
    )
    zero(unet, "conv2", "to_out.0", "conv_out")
    return unet


def new_scheduler() -> Any:
    """Stable Diffusion's table with zero terminal SNR and prediction of v (Lin et al., 2023, arXiv
    2305.08891)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def time_law(alphas_cumprod: Tensor, floor: float = 0.3, mean: float = -1.5, width: float = 2.0) -> Tensor:
    """Cumulative probabilities of a table's steps, most of it where shapes are decided: the density is a
    floor and a bump over the log-SNR."""
    log_snr = (alphas_cumprod / (1 - alphas_cumprod)).log().double()
    density = floor + (-(((log_snr - mean) / width) ** 2) / 2).exp()
    return density.cumsum(0) / density.sum()


def rate_at(step: int, steps: int) -> float:
    """The share of the rate at a step: a linear rise, a plateau, a linear fall."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / FALL)


class Run:
    """Text encoder and U-Net in training: losses, optimiser, averages; saved and resumed as one."""

    def __init__(self, pipe: Any, world: Shapes, steps: int):
        from diffusers.training_utils import EMAModel

        self.pipe, self.world, self.steps, self.step = pipe, world, steps, 0
        self.parts = nn.ModuleDict({"unet": pipe.unet, "text": pipe.text_encoder}).requires_grad_(True)
        self.ids = token_ids(pipe.tokenizer, [*world.captions, ""])
        self.law = time_law(pipe.scheduler.alphas_cumprod)
        groups: list[dict[str, Any]] = [
            {"params": list(pipe.unet.parameters()), "lr": RATE},
            {"params": list(pipe.text_encoder.parameters()), "lr": TEXT_RATE * RATE},
        ]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0, fused=True)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: rate_at(step, steps))
        self.average = EMAModel(self.parts.parameters(), decay=AVERAGE, foreach=True)

    def learn(self, latents: Tensor, captions: Tensor) -> float:
        """One step on rows of the bank, latents (n, 8, 8, 8) with the numbers of their captions (n,); returns
        the loss, the mean squared error of v."""
        draws = Draws(BATCH, "shapes pipeline", self.step)
        rows = (draws.uniform(0, 1, dtype=torch.float64) * len(latents)).long()
        x, eps = latents[rows], draws.normal(*latents.shape[1:])
        place = (torch.arange(BATCH) + draws.uniform(0, 1, dtype=torch.float64)) / BATCH  # stratified
        t = torch.searchsorted(self.law, place).clamp(max=len(self.law) - 1)
        hidden = draws.uniform(0, 1) < NO_CAPTION
        asked = captions[rows].masked_fill(hidden, len(self.ids) - 1)
        states = self.pipe.text_encoder(self.ids[asked]).last_hidden_state
        noisy = self.pipe.scheduler.add_noise(x, eps, t)
        v = self.pipe.unet(noisy, t, encoder_hidden_states=states).sample
        loss = F.mse_loss(v, self.pipe.scheduler.get_velocity(x, eps, t))
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimiser.step()
        self.rate.step()
        self.average.step(self.parts.parameters())
        self.step += 1
        return float(loss.detach())

    def look(self, n: int = 48, steps: int = 10, guidance: float = 3.0) -> dict[str, float]:
        """The fidelity of the averaged weights under captions of both splits."""
        self.average.store(self.parts.parameters())
        self.average.copy_to(self.parts.parameters())
        found = {}
        for split in ("train", "test"):
            ids = self.world.balanced_labels(n, split)
            drawn = self.pipe(
                [self.world.captions[int(i)] for i in ids],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(0),
                output_type="pt",
            ).images
            found[split] = prompt_fidelity(load_reader(), 2 * drawn - 1, ids)["fidelity"]
        self.average.restore(self.parts.parameters())
        return found

    def save(self, file: Path) -> None:
        """Write all that the rest of the run depends on."""
        state = {
            "step": self.step,
            "parts": self.parts.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rate": {k: v for k, v in self.rate.state_dict().items() if k != "lr_lambdas"},
            "average": self.average.state_dict(),
        }
        written = io.BytesIO()
        torch.save(state, written)
        atomic_write(file, written.getvalue())

    def resume(self, file: Path) -> None:
        """Go on from a file of :meth:`save`."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.parts.load_state_dict(state["parts"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rate.load_state_dict({**state["rate"], "lr_lambdas": [None, None]})
        self.average.load_state_dict(state["average"])


def train_denoiser(pipe: Any, world: Shapes, file: Path, steps: int = STEPS) -> None:
    """Train U-Net and text encoder together and leave their averages in the pipeline.

    Arguments:
        pipe: the pipeline, its autoencoder and text encoder already trained.
        world: of the renders.
        file: where the state of the run is kept; an interrupted run goes on from it.
        steps: of the run.
    """
    latents, captions = encoded(pipe.vae, world, PICTURES)
    run = Run(pipe, world, steps)
    if file.is_file():
        run.resume(file)
    loss = 1.0  # a running mean
    while run.step < steps:
        loss = 0.9 * loss + 0.1 * run.learn(latents, captions)
        if run.step % SAVE_EVERY == 0 or run.step == steps:
            run.save(file)
            print(f"denoiser {run.step}/{steps}: {loss:.4f}", flush=True)
        if run.step % LOOK_EVERY == 0:
            print(f"denoiser {run.step}/{steps}: fidelity {run.look()}", flush=True)
    run.average.copy_to(run.parts.parameters())
    run.parts.eval().requires_grad_(False)
