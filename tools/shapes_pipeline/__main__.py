"""Make the pipeline, measure it, and put it where the package and its figures are."""

import json
from pathlib import Path

from stillhouse.opening import load
from stillhouse.worlds.shapes.world import Shapes
from tools.shapes_pipeline.making import make
from tools.shapes_pipeline.shipping import publish, ship

if __name__ == "__main__":
    world = Shapes()
    place = ship(make(Path("runs/shapes-pipeline"), world), world)
    publish(place)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{place}: {size / 2**20:.2f} MB, {json.dumps(load(place).info['measured'])}")
