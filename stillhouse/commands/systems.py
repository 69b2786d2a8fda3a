"""``stillhouse systems``: what there is."""

from __future__ import annotations

import json

from stillhouse.commands.parser import Parser


def systems(words: list[str]) -> int:
    from stillhouse.systems.registry import KINDS, list_systems, markdown

    parser = Parser("systems", "List the systems by family and by world, read from their files.")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--world", help="only those that are shown, or can be tried, in this world")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--markdown", action="store_true", help="the page docs/systems.md, of all systems")
    given = parser.parse(words)
    if given.markdown:
        print(markdown(), end="")
        return 0
    found = list_systems(given.family, given.world, given.kind)
    if given.json:
        print(json.dumps([s.config() for s in found], indent=2, ensure_ascii=False))
        return 0
    for family in dict.fromkeys(s.family for s in found):
        print(family)
        for s in (s for s in found if s.family == family):
            if s.problem:
                print(f"  {s.slug:<14} BROKEN: {s.problem}")
                continue
            print(f"  {s.slug:<14} {s.paper}")
            print(
                f"  {'':<14} {s.kind} · {s.file} · worlds: {', '.join(s.worlds) or 'any'} · needs: "
                f"{s.needs_text}"
            )
    print("by world")
    for world in sorted({w for s in found for w in s.worlds}):
        print(f"  {world:<14} {', '.join(s.slug for s in found if world in s.worlds)}")
    broken = sum(bool(s.problem) for s in found)
    print(f"{len(found) - broken} systems" + (f", and {broken} broken" if broken else ""))
    return 0
