"""The shipped Diffusers pipeline of the world ``shapes``, and how it is made anew: ``python -m
tools.shapes_pipeline``.

A Stable Diffusion in small: an autoencoder, a CLIP text encoder that first learns to name the parts of a
caption, and a U-Net of Stable Diffusion's own blocks, trained together with the text encoder. Nothing but
the world's renders and captions goes in. About twenty minutes on one core; a run that was cut short goes on
where it was.
"""
