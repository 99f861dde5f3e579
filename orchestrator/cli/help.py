"""Help texts: examples that keep their lines."""


def examples(*lines: str, where: str = "") -> str:
    r"""
    Return an epilogue with examples.

    Args:
        lines: commands to type.
        where: a closing remark.

    The `\b` tells typer's formatter not to fill the paragraph.
    """
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    return f"{shown}\n\n{where}" if where else shown
