"""Sampling saved students as a user of Diffusers does. Run as a process of its own by the tests: no
stillhouse in it.

``python in_diffusers.py JOBS.json NOISE.safetensors RESULTS.safetensors``
"""

import json
import sys

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()


def opened(job):
    """The pipeline of a saved student: its folder, or its base with the LoRA and the scheduler put in."""
    if not job["lora"]:
        return DiffusionPipeline.from_pretrained(
            job["folder"], **({"trust_remote_code": True} if job["trust"] else {})
        )
    pipe = DiffusionPipeline.from_pretrained(job["base"])
    if hasattr(pipe, "load_lora_weights") and job["lora"] == "diffusers":
        pipe.load_lora_weights(job["folder"])
    else:
        from peft import PeftModel

        network = getattr(pipe, job["part"])
        setattr(pipe, job["part"], PeftModel.from_pretrained(network, job["folder"]).merge_and_unload())
    kind = getattr(
        diffusers, json.load(open(f"{job['folder']}/scheduler/scheduler_config.json"))["_class_name"]
    )
    pipe.scheduler = kind.from_pretrained(job["folder"], subfolder="scheduler")
    return pipe


def sampled(job, noise):
    """Latents, or pixels where the model is one of pixels."""
    pipe = opened(job)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(job["seed"])  # for pipelines that hand their generator to no scheduler
    call = {**job["call"], "generator": torch.Generator().manual_seed(job["seed"])}
    if job["gives"] == "latents":
        return pipe(**call, latents=noise, output_type="latent").images
    if job["gives"] == "pixels":
        return torch.from_numpy(pipe(**call, batch_size=2, output_type="np").images).permute(0, 3, 1, 2)
    call["generator"] = torch.Generator().manual_seed(job["seed"] + 1)
    seen, decode = [], pipe.vae.decode
    pipe.vae.decode = lambda z, **options: (seen.append(z), decode(z, **options))[1]
    pipe(**call, output_type="np")
    return seen[0] * pipe.vae.config.scaling_factor


jobs_file, noise_file, results_file = sys.argv[1:]
noises = load_file(noise_file)
results = {}
with torch.no_grad():
    for job in json.load(open(jobs_file)):
        results[job["name"]] = sampled(job, noises.get(job["name"])).contiguous()
assert "stillhouse" not in sys.modules
save_file(results, results_file)
