"""Lists the methods."""

import inspect
import re

from foveate.methods.fitting import method
from foveate.methods.registry import METHODS, PLACES, check_names

_SOURCE = re.compile(r"arXiv\s+(\d{4}\.\d{5}(?:v\d+)?)")

_KEEP = 64  # any budget: the answer is the same
_NOTES = """static_count: whether the number of tokens is known before scores are, as engines that count first need.
foveate methods NAME explains one and says which model families it runs on."""


def main(*names: str) -> None:
    """Prints what is known about methods: foveate methods [NAME ...] [--families].

    Without a name: every method with its paper, whether its number of tokens is known before scores are, and the place
    where it removes tokens. With names: how each works, its options, and the model families that it runs on, which are
    tried on tiny random models. --families tries all methods, which takes about a minute.
    """
    if "--families" in names:
        from foveate.testing.matrix import table

        print(table())
        return
    check_names(names)
    for name in names:
        print(_details(name), end="\n\n")
    if not names:
        print(_listing())


def _listing() -> str:
    rows = [(name, _paper(name), _static_count(name), PLACES.get(name, "installed")) for name in METHODS]
    width = max(len(name) for name in METHODS)
    lines = [
        f"{name:<{width}}  {paper:<18}  {known:<12}  {place}"
        for name, paper, known, place in (("method", "paper", "static_count", "place"), *rows)
    ]
    return "\n".join([*lines, "", _NOTES])


def _static_count(name: str) -> str:
    """Returns "yes" or "no", or "with keep" if the count is known only with a budget."""
    recipe = METHODS[name]
    if not recipe(keep=_KEEP).static_count:
        return "no"
    needs_keep = inspect.signature(recipe).parameters["keep"].default is inspect.Parameter.empty
    return "yes" if needs_keep or recipe().static_count else "with keep"


def _paper(name: str) -> str:
    found = _SOURCE.search(METHODS[name].__doc__ or "")
    return f"arXiv {found[1]}" if found else ""


def _details(name: str) -> str:
    from foveate.testing.families import FAMILIES
    from foveate.testing.matrix import REASONS, outcome

    recipe = method(name)
    given = [str(one.replace(annotation=one.empty)) for one in inspect.signature(recipe).parameters.values()]
    lines = [f"{name}({', '.join(given)})", "", inspect.getdoc(recipe) or ""]
    if name not in METHODS:
        return "\n".join(lines)
    lines += ["", "Runs on:"]
    for family in FAMILIES:
        found = outcome(name, family)
        reason = REASONS[found[1]][1] if found.startswith("(") else ""
        lines.append(f"  {family:<18}  {f'no: {reason}' if reason else found}")
    return "\n".join(lines)
