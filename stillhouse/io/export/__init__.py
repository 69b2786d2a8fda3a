"""Students of Diffusers pipelines as folders and LoRA files that open in Diffusers as they are."""

from stillhouse.io.export.guidance_input import with_guidance_input
from stillhouse.io.export.lora_file import is_lora, lora_in, open_lora
from stillhouse.io.export.reopen import is_student, open_student
from stillhouse.io.export.save import FORMS, save_pipeline
from stillhouse.io.export.schedulers import Choice, choose
from stillhouse.io.export.walks import default_guidance, first_level

__all__ = [
    "FORMS",
    "Choice",
    "choose",
    "first_level",
    "is_lora",
    "is_student",
    "lora_in",
    "open_lora",
    "open_student",
    "save_pipeline",
    "default_guidance",
    "with_guidance_input",
]
