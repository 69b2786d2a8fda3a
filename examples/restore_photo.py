"""A real photograph made four times as large by the shipped teacher, and by a student of one call.

python examples/restore_photo.py            # about ten minutes on two CPU cores
python examples/restore_photo.py --quick    # a few iterations on a small cut, to see that it runs
"""

import sys
from pathlib import Path

import stillhouse
from stillhouse.io.photo import Photo, read_photo, write_photo
from stillhouse.worlds.photos.world import find_photograph

QUICK = "--quick" in sys.argv
out = Path("runs/restore-photo")

teacher = stillhouse.load("photos")
student = stillhouse.distill(
    teacher,
    "tad_sr",
    world="photos",
    iterations=2 if QUICK else 400,
    batch=4 if QUICK else 16,
    out=out,
    resume=out.exists(),
)
# neither has learned from this photograph
cat = read_photo(find_photograph("skimage", "chelsea.png") or find_photograph("sklearn", "flower.jpg"))
side = 16 if QUICK else 96
small = Photo(cat.colour[:, 80 : 80 + side, 110 : 110 + side])
write_photo(out / "given.png", small.enlarged(4))
for name, model in (("teacher", teacher), ("student", student)):
    write_photo(out / f"{name}.png", model.restore(small))
print(f"look at {out}/given.png, {out}/teacher.png and {out}/student.png")
