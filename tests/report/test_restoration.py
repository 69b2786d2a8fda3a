import re

from stillhouse.report.restoration import perception_distortion

ROWS = [
    {"who": "student", "steps": 1, "metrics": {"psnr": 26.0, "frechet": 5.0}},
    {"who": "teacher", "steps": 1, "metrics": {"psnr": 28.0, "frechet": 40.0}},
    {"who": "teacher", "steps": 15, "metrics": {"psnr": 25.0, "frechet": 3.0}},
    {"who": "as given", "metrics": {"psnr": 27.0, "frechet": 70.0}},
    {"who": "teacher", "steps": 2, "metrics": {"psnr": None, "frechet": 1.0}},
]


def test_every_measured_way_is_a_dot_where_it_belongs():
    svg = perception_distortion(ROWS)
    dots = {
        name: (float(x), float(y))
        for x, y, name in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+"><title>([^:]+):', svg)
    }
    assert set(dots) == {"student, 1 step", "teacher, 1 step", "teacher, 15 steps", "as given"}
    across = sorted(dots, key=lambda name: dots[name][0])
    assert across == ["teacher, 15 steps", "student, 1 step", "as given", "teacher, 1 step"]
    down = sorted(dots, key=lambda name: -dots[name][1])
    assert down == ["teacher, 15 steps", "student, 1 step", "teacher, 1 step", "as given"]
    assert svg.count("var(--c0)") == 1 and svg.count('class="faint"') == 1 and svg.endswith("</svg>")


def test_nothing_measured_is_said():
    assert "nothing to draw" in perception_distortion(ROWS[4:])
