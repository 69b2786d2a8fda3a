"""``stillhouse systems``: what there is."""

from __future__ import annotations

import json

from stillhouse.commands.parser import Parser


def systems(words: list[str]) -> int:
    from stillhouse.systems.registry import list_systems

    parser = Parser("systems", "List the systems by family and by world, read from the method files.")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--world", help="only those that are shown, or can be tried, in this world")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    given = parser.parse(words)
    found = list_systems(given.family, given.world)
    if given.json:
        print(json.dumps([s.config() for s in found], indent=2, ensure_ascii=False))
        return 0
    for family in dict.fromkeys(s.family for s in found):
        print(family)
        for s in (s for s in found if s.family == family):
            print(f"  {s.slug:<14} {s.paper}")
            print(
                f"  {'':<14} {s.file} · worlds: {', '.join(s.worlds) or 'any'} · needs: "
                f"{', '.join(s.needs) or 'nothing beside a teacher'}"
            )
    print("by world")
    for world in sorted({w for s in found for w in s.worlds}):
        print(f"  {world:<14} {', '.join(s.slug for s in found if world in s.worlds)}")
    print(f"{len(found)} systems")
    return 0
