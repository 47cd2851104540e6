"""Numbers of things, for people."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one: ``1 body``, ``2,000 bodies``, ``0 boxes``.

    Args:
        number: how many.
        noun: of one.
    """
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number:,} {noun[:-1]}ies"
    if noun.endswith("series"):
        return f"{number:,} {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
