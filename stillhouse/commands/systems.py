"""``stillhouse systems``: what there is."""

from __future__ import annotations

import json

from stillhouse.commands.parser import Parser


def systems(words: list[str]) -> int:
    from stillhouse.systems import list_systems

    parser = Parser("systems", "List the distillation methods, read from the method files.")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    given = parser.parse(words)
    found = list_systems(given.family)
    if given.json:
        print(json.dumps([s.config() for s in found], indent=2, ensure_ascii=False))
        return 0
    for family in dict.fromkeys(s.family for s in found):
        print(family)
        for s in (s for s in found if s.family == family):
            print(f"  {s.slug:<14} {s.paper}")
            print(
                f"  {'':<14} {s.file} · worlds: {', '.join(s.worlds) or 'any'} · needs: {', '.join(s.needs) or 'nothing beside a teacher'}"
            )
    print(f"{len(found)} systems")
    return 0
