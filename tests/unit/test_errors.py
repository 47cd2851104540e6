import inspect
import re

from posecore import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    """Each line's parent is the nearest line above that is drawn further left."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if node := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth, name = len(node[1]), node[2]
            above = [(left, parent) for left, parent in above if left < depth]
            drawn[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    real = {name: cls.__bases__[0].__name__ for name, cls in inspect.getmembers(errors, inspect.isclass)}
    assert drawn == real
